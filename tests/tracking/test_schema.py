"""What a tracking database's tables say: told without MLflow, with the command that mends it."""

import sqlite3
from pathlib import Path

import pytest

from afp_ray.tracking.schema import mlflow_revisions, schema_verdict


def stamped(file: Path, *revisions: str) -> str:
    """A database that says which revisions it has; returns its URI."""
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.executemany("INSERT INTO alembic_version VALUES (?)", [(text,) for text in revisions])
    connection.commit()
    connection.close()
    return f"sqlite:///{file}"


def test_the_installed_mlflow_has_one_newest_revision() -> None:
    known, heads = mlflow_revisions()
    assert len(heads) == 1
    assert heads < known
    assert len(known) > 40


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_database_that_mlflow_has_just_made_is_current(schema: Path) -> None:
    assert schema_verdict(f"sqlite:///{schema}").verdict == "current"


def test_a_current_database_needs_nothing(tmp_path: Path) -> None:
    (head,) = mlflow_revisions()[1]
    verdict = schema_verdict(stamped(tmp_path / "mlflow.db", head))
    assert (verdict.verdict, verdict.fix, verdict.is_usable) == ("current", "", True)


def test_an_older_database_names_the_command_that_upgrades_it(tmp_path: Path) -> None:
    known, heads = mlflow_revisions()
    uri = stamped(tmp_path / "mlflow.db", min(known - heads))
    verdict = schema_verdict(uri)
    assert (verdict.verdict, verdict.is_usable) == ("older", False)
    assert verdict.fix.endswith(f"mlflow db upgrade {uri}")
    assert verdict.fix.startswith("cp ")


def test_a_newer_database_asks_for_a_newer_mlflow(tmp_path: Path) -> None:
    verdict = schema_verdict(stamped(tmp_path / "mlflow.db", "feedfeedfeed"))
    assert (verdict.verdict, verdict.is_usable) == ("newer", False)
    assert "pip install --upgrade mlflow" in verdict.fix
    assert "feedfeedfeed" in verdict.found


@pytest.mark.parametrize("revisions", [(), ("a", "b")])
def test_half_made_tables_are_moved_away(tmp_path: Path, revisions: tuple[str, ...]) -> None:
    verdict = schema_verdict(stamped(tmp_path / "mlflow.db", *revisions))
    assert verdict.verdict == "broken"
    assert "afp sync" in verdict.fix


def test_no_database_garbage_and_an_empty_file(tmp_path: Path) -> None:
    assert schema_verdict(f"sqlite:///{tmp_path}/none.db").verdict == "new"
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    assert schema_verdict(f"sqlite:///{tmp_path}/empty.db").verdict == "new"
    (tmp_path / "bad.db").write_bytes(b"no database at all" * 99)
    assert schema_verdict(f"sqlite:///{tmp_path}/bad.db").verdict == "broken"


def test_a_database_that_another_process_holds_is_busy(tmp_path: Path) -> None:
    uri = stamped(tmp_path / "mlflow.db", "x")
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert schema_verdict(uri, wait_s=0.01).verdict == "busy"
    holder.close()


def test_a_server_is_left_to_itself() -> None:
    assert schema_verdict("http://127.0.0.1:1").verdict == "unchecked"
