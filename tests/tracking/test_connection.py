"""A new tracking database: copied from the cache, equal to the one that MLflow makes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from afp_ray.cache import cache_folder
from afp_ray.store import StudyPaths
from afp_ray.tracking.connection import connect
from afp_ray.tracking.location import default_uri

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


def rows(file: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return sorted(database.execute(query).fetchall(), key=repr)


def experiments_of(storage: Path) -> list[str]:
    client, _ = connect(StudyPaths(storage, "mine"), default_uri(storage))
    return sorted(experiment.artifact_location for experiment in client.search_experiments())


def test_a_new_database_has_the_tables_that_mlflow_makes(
    tmp_path: Path, schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    experiments = [experiments_of(tmp_path / name) for name in ("first", "second")]
    (kept,) = cache_folder("tables").glob("*.db")
    columns = "SELECT t.name, c.* FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    # Not the statements as they were given: MLflow's migrations write constraints in any order.
    for query in (columns, "SELECT name, tbl_name, type FROM sqlite_master", "SELECT * FROM alembic_version"):
        expected = rows(schema, query)
        assert expected
        assert rows(kept, query) == expected
        assert rows(tmp_path / "second" / "mlflow.db", query) == expected
    assert [name.replace("first", "second") for name in experiments[0]] == experiments[1], "none names another folder"
    assert rows(kept, "SELECT * FROM experiments") == []


@pytest.mark.parametrize("damage", ["cut", "empty", "a folder"])
def test_a_kept_database_that_is_not_whole_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    experiments_of(tmp_path / "first")
    (kept,) = cache_folder("tables").glob("*.db")
    if damage == "a folder":
        kept.unlink()
        kept.mkdir()
    else:
        kept.write_bytes(kept.read_bytes()[: 5000 if damage == "cut" else 0])
    assert len(experiments_of(tmp_path / "second")) == 2


def test_without_a_cache_the_tables_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    assert len(experiments_of(tmp_path / "first")) == 2
