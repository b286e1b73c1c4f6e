"""How corpora name languages where they do not use the ISO 639-3 code of the language table."""

from afp_ray.languages import language_row

TATOEBA_CODES = {"zh": "cmn", "ar": "ara", "az": "aze", "mn": "mon", "ne": "nep", "ps": "pus"} | {
    "ku": "kur",
    "sq": "sqi",
    "uz": "uzb",
    "yi": "yid",
}
TICO19_CODES = {"ar": "ara", "sw": "swa", "fa": "fas", "ne": "nep", "ps": "pus"} | {
    "kr": "kau",
    "ku": "kur",
    "om": "orm",
}
FLORES_CODES = {"ko": "kor_Hang", "qu": "quy_Latn", "no": "nob_Latn"}
FLORES_PLUS_CODES = {"zh": "cmn_Hans", "et": "ekk_Latn", "tl": "fil_Latn"}
"""Where FLORES+ names a language otherwise than FLORES-200."""
NTREX_CODES = {"zh": "zho-CN", "sw": "swa", "fa": "fas", "az": "aze-Latn", "lv": "lav", "mn": "mon", "ne": "nep"} | {
    "ps": "pus",
    "tl": "fil",
    "ckb": "ckb-Arab",
    "ff": "fuc",
    "mg": "mlg",
    "ms": "msa",
    "om": "orm",
    "sd": "snd-Arab",
    "sn": "sna-Latn",
    "sq": "sqi",
    "sr": "srp-Cyrl",
    "tg": "tgk-Cyrl",
    "uz": "uzb",
}
UDHR_CODES = {"zh": "cmn_hans", "de": "deu_1996", "pt": "por_BR", "ro": "ron_2006", "el": "ell_monotonic"} | {
    "az": "azj_latn",
    "fa": "pes_1",
    "ht": "hat_popular",
    "lv": "lav",
    "ne": "nep",
    "ps": "pbu",
    "qu": "quy",
}


def tatoeba_code(language: str) -> str:
    """Code of `language` in the file names of Tatoeba."""
    return TATOEBA_CODES.get(language, language_row(language).code3)


def tico19_code(language: str) -> str:
    """Code of `language` in the file names of TICO-19."""
    return TICO19_CODES.get(language, language_row(language).code3)


def flores_code(language: str) -> str:
    """Code and script of `language` in the file names of FLORES-200."""
    row = language_row(language)
    return FLORES_CODES.get(language, f"{row.code3}_{row.script}")


def flores_names(language: str, part: str) -> tuple[list[str], list[str]]:
    """Names that the sentences of `language` may have in `part`: `dev` or `devtest`.

    Returns: those of text, a line a sentence (FLORES-200, and the archive of FLORES+), then those of objects (FLORES+).
    """
    codes = [flores_code(language), *([other] if (other := FLORES_PLUS_CODES.get(language)) else [])]
    texts = [name for code in codes for name in (f"{code}.{part}", f"{part}/{code}.{part}", f"{part}/{part}.{code}")]
    objects = [
        f"{name}{ending}"
        for code in codes
        for name, endings in (
            (f"{part}/{code}", (".jsonl", ".parquet")),
            (f"{code}/{part}", (".jsonl", ".parquet", "-00000-of-00001.parquet", "/0000.parquet")),
        )
        for ending in endings
    ]
    return texts, objects


def ntrex_code(language: str) -> str:
    """Code of `language` in the file names of NTREX-128."""
    return NTREX_CODES.get(language, language_row(language).code3)


def udhr_code(language: str) -> str:
    """Code of `language` in the file names of the declarations."""
    return UDHR_CODES.get(language, language_row(language).code3)
