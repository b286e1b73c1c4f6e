"""One row per language: its codes, script, word space, resource class and the words that prompts need.

`LANGUAGES` has those with prompt words, `OTHERS` further ones of ISO 639 with name and script alone. What a study says
of a language (`data.language_names`) stands before both while a trial of it is read or run: `declare`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from afp_ray.errors import TaskError

Resource = Literal["high", "middle", "low"]
WORDS = ("right", "yes", "also", "no", "because", "so")
WORDS_FIELD = "data.language_names"
"""Where a study says what a language is called, written in and asked with."""


@dataclass(frozen=True, slots=True)
class Language:
    """A language as the prompts and the tables see it.

    Attributes:
        code: ISO 639-1 code, else that of ISO 639-3.
        code3: ISO 639-3 code as FLORES-200 has it, which most corpora name their files by; "arb", not "ara".
        name: English name, used in instructions ("Answer in Thai:").
        script: ISO 15924 script code.
        space: what stands between words, "" where the script writes none.
        resource: amount of text on the web, as multilingual models class it.
        words: prompt words by the name of `WORDS`; a missing one is an error when a template asks for it.
    """

    code: str
    code3: str
    name: str
    script: str
    space: str
    resource: Resource
    words: dict[str, str]

    def literal(self, word: str) -> str:
        """The prompt word `word` in this language.

        Raises: TaskError naming the word and the field to fill, when this language has none.
        """
        if word not in self.words:
            raise TaskError(
                f"{self.name} ({self.code}) has no word for {word!r}",
                where=f"{WORDS_FIELD}.{self.code}.words",
                allowed=f"languages with it: {', '.join(c for c, row in LANGUAGES.items() if word in row.words)}",
                fix=f"give it: {WORDS_FIELD}: {{{self.code}: {{words: {{{word}: ...}}}}}}, or score with "
                "evaluation.prompt_language: pivot",
            )
        return self.words[word]


def _row(code: str, code3: str, name: str, script: str, space: str, resource: Resource, words: str) -> Language:
    """`words` lists the prompt words in the order of `WORDS`, separated by "|"; an empty place has no word."""
    pairs = zip(WORDS, words.split("|"), strict=True) if words else ()
    return Language(code, code3, name, script, space, resource, {key: value for key, value in pairs if value})


# Words of the XNLI and XCOPA templates follow the wording of the public evaluation harness where it has the language,
# so that numbers compare. "right" goes before a question mark; "because" and "so" go before a main clause.
LANGUAGES: dict[str, Language] = {
    row.code: row
    for row in (
        _row("en", "eng", "English", "Latn", " ", "high", "right|Yes|Also|No|because|so"),
        _row("zh", "zho", "Chinese", "Hans", "", "high", "正确|是的|所以|不是的|因为|所以"),
        _row("de", "deu", "German", "Latn", " ", "high", "richtig|Ja|Auch|Nein|weil|daher"),
        _row("es", "spa", "Spanish", "Latn", " ", "high", "correcto|Sí|Asi que|No|porque|así que"),
        _row("fr", "fra", "French", "Latn", " ", "high", "correct|Oui|Aussi|Non|parce que|donc"),
        _row("ru", "rus", "Russian", "Cyrl", " ", "high", "правильно|Да|Так|Нет|потому что|поэтому"),
        _row("ja", "jpn", "Japanese", "Jpan", "", "high", "ですね|はい|また|いいえ|なぜなら|だから"),
        _row("it", "ita", "Italian", "Latn", " ", "high", "vero|Sì|Quindi|No|perché|quindi"),
        _row("pt", "por", "Portuguese", "Latn", " ", "high", "certo|Sim|Também|Não|porque|então"),
        _row("ar", "arb", "Arabic", "Arab", " ", "middle", "صحيح|نعم|لذا|رقم|لأن|لذلك"),
        _row("bg", "bul", "Bulgarian", "Cyrl", " ", "middle", "правилно|да|така|не|защото|затова"),
        _row("cs", "ces", "Czech", "Latn", " ", "middle", "správně|Ano|Také|Ne|protože|takže"),
        _row("el", "ell", "Greek", "Grek", " ", "middle", "σωστός|Ναί|Έτσι|όχι|επειδή|άρα"),
        _row("fa", "pes", "Persian", "Arab", " ", "middle", "درست است|بله|همچنین|نه|زیرا|بنابراین"),
        _row("fi", "fin", "Finnish", "Latn", " ", "middle", "eikö niin|Kyllä|Myös|Ei|koska|joten"),
        _row("he", "heb", "Hebrew", "Hebr", " ", "middle", "נכון|כן|כמו כן|לא|כי|לכן"),
        _row("hi", "hin", "Hindi", "Deva", " ", "middle", "सही|हाँ|इसलिए|नहीं|क्योंकि|इसलिए"),
        _row("hr", "hrv", "Croatian", "Latn", " ", "middle", "točno|Da|Također|Ne|jer|zato"),
        _row("id", "ind", "Indonesian", "Latn", " ", "middle", "benar|Ya|Juga|Tidak|karena|maka"),
        _row("ko", "kor", "Korean", "Kore", " ", "middle", "맞죠|예|또한|아니요|왜냐하면|그래서"),
        _row("nl", "nld", "Dutch", "Latn", " ", "middle", "toch|Ja|Ook|Nee|want|dus"),
        _row("pl", "pol", "Polish", "Latn", " ", "middle", "prawda|Tak|Również|Nie|ponieważ|więc"),
        _row("ro", "ron", "Romanian", "Latn", " ", "middle", "corect|Da|De asemenea|Nu|pentru că|așa că"),
        _row("sv", "swe", "Swedish", "Latn", " ", "middle", "eller hur|Ja|Också|Nej|eftersom|så"),
        _row("th", "tha", "Thai", "Thai", "", "middle", "ถูกต้อง|ใช่|ดังนั้น|ไม่|เพราะ|ดังนั้น"),
        _row("tr", "tur", "Turkish", "Latn", " ", "middle", "doğru|Evet|Böylece|Hayır|çünkü|bu yüzden"),
        _row("uk", "ukr", "Ukrainian", "Cyrl", " ", "middle", "правильно|Так|Також|Ні|тому що|тому"),
        _row("vi", "vie", "Vietnamese", "Latn", " ", "middle", "đúng|Vâng|Vì vậy|Không|bởi vì|vì vậy"),
        _row("af", "afr", "Afrikaans", "Latn", " ", "low", "reg|Ja|Ook|Nee|want|dus"),
        _row("az", "azj", "Azerbaijani", "Latn", " ", "low", "doğrudur|Bəli|Həmçinin|Xeyr|çünki|buna görə də"),
        _row("bn", "ben", "Bengali", "Beng", " ", "low", "ঠিক|হ্যাঁ|এছাড়াও|না|কারণ|তাই"),
        _row("et", "est", "Estonian", "Latn", " ", "low", "õige|Jah|Samuti|Ei|sest|seetõttu"),
        _row("eu", "eus", "Basque", "Latn", " ", "low", "ezta|Bai|Gainera|Ez|izan ere|beraz"),
        _row("gl", "glg", "Galician", "Latn", " ", "low", "verdadeiro|Si|Ademais|Non|porque|así que"),
        _row("gu", "guj", "Gujarati", "Gujr", " ", "low", "બરાબર|હા|ઉપરાંત|ના|કારણ કે|તેથી"),
        _row("ht", "hat", "Haitian Creole", "Latn", " ", "low", "||||poukisa|donk sa"),
        _row("ka", "kat", "Georgian", "Geor", " ", "low", "მართალია|დიახ|ასევე|არა|რადგან|ამიტომ"),
        _row("kk", "kaz", "Kazakh", "Cyrl", " ", "low", "дұрыс|Иә|Сондай-ақ|Жоқ|өйткені|сондықтан"),
        _row("km", "khm", "Khmer", "Khmr", "", "low", "មែនទេ|មែន|ម្យ៉ាងទៀត|ទេ|ពីព្រោះ|ដូច្នេះ"),
        _row("lt", "lit", "Lithuanian", "Latn", " ", "low", "tiesa|Taip|Taip pat|Ne|nes|todėl"),
        _row("lv", "lvs", "Latvian", "Latn", " ", "low", "pareizi|Jā|Arī|Nē|jo|tāpēc"),
        _row("mk", "mkd", "Macedonian", "Cyrl", " ", "low", "точно|Да|Исто така|Не|затоа што|затоа"),
        _row("ml", "mal", "Malayalam", "Mlym", " ", "low", "ശരിയല്ലേ|അതെ|കൂടാതെ|അല്ല|കാരണം|അതിനാൽ"),
        _row("mn", "khk", "Mongolian", "Cyrl", " ", "low", "зөв|Тийм|Мөн|Үгүй|учир нь|тиймээс"),
        _row("mr", "mar", "Marathi", "Deva", " ", "low", "बरोबर|होय|तसेच|नाही|कारण|म्हणून"),
        _row("my", "mya", "Burmese", "Mymr", "", "low", "မှန်လား|ဟုတ်ကဲ့|ထို့အပြင်|မဟုတ်ပါ|အဘယ်ကြောင့်ဆိုသော်|ထို့ကြောင့်"),
        _row("ne", "npi", "Nepali", "Deva", " ", "low", "सही|हो|साथै|होइन|किनभने|त्यसैले"),
        _row("ps", "pbt", "Pashto", "Arab", " ", "low", "سمه ده|هو|همدارنګه|نه|ځکه چې|نو"),
        _row("qu", "que", "Quechua", "Latn", " ", "low", "||||imataq|chaymi"),
        _row("si", "sin", "Sinhala", "Sinh", " ", "low", "නේද|ඔව්|එමෙන්ම|නැත|මන්ද|එබැවින්"),
        _row("sl", "slv", "Slovenian", "Latn", " ", "low", "kajne|Da|Tudi|Ne|ker|zato"),
        _row("sw", "swh", "Swahili", "Latn", " ", "low", "sahihi|Ndiyo|Hivyo|Hapana|kwa sababu|kwa hiyo"),
        _row("ta", "tam", "Tamil", "Taml", " ", "low", "சரியா|ஆம்|மேலும்|இல்லை|காரணமாக|எனவே"),
        _row("te", "tel", "Telugu", "Telu", " ", "low", "కదా|అవును|అలాగే|కాదు|ఎందుకంటే|కాబట్టి"),
        _row("tl", "tgl", "Tagalog", "Latn", " ", "low", "tama|Oo|Gayundin|Hindi|dahil|kaya"),
        _row("ur", "urd", "Urdu", "Arab", " ", "low", "صحیح|ہاں|اس لئے|نہیں|کیونکہ|اس لیے"),
        _row("xh", "xho", "Xhosa", "Latn", " ", "low", "ichanekile|Ewe|Kananjalo|Hayi|kuba|ngoko"),
    )
}

# By script, with a space between words unless `_UNSPACED` has it: code, ISO 639-3 code where that is another, name.
_NAMES = {
    "Latn": """
    aa aar Afar; ak aka Akan; an arg Aragonese; ay ayr Aymara; bi bis Bislama; bm bam Bambara; br bre Breton; bs bos
    Bosnian; ca cat Catalan; ch cha Chamorro; co cos Corsican; cy cym Welsh; da dan Danish; ee ewe Ewe; eo epo
    Esperanto; ff fuv Fulah; fj fij Fijian; fo fao Faroese; fy fry Western Frisian; ga gle Irish; gd gla Scottish
    Gaelic; gn grn Guarani; gv glv Manx; ha hau Hausa; ho hmo Hiri Motu; hu hun Hungarian; hz her Herero; ia ina
    Interlingua; ie ile Interlingue; ig ibo Igbo; ik ipk Inupiaq; io ido Ido; is isl Icelandic; jv jav Javanese; kg
    kon Kongo; ki kik Kikuyu; kj kua Kuanyama; kl kal Greenlandic; kr knc Kanuri; ku kmr Kurdish; kw cor Cornish; la
    lat Latin; lb ltz Luxembourgish; lg lug Luganda; li lim Limburgish; ln lin Lingala; lu lub Luba-Katanga; mg plt
    Malagasy; mh mah Marshallese; mi mri Maori; ms zsm Malay; mt mlt Maltese; na nau Nauru; nb nob Norwegian Bokmål;
    nd nde North Ndebele; ng ndo Ndonga; nn nno Norwegian Nynorsk; no nor Norwegian; nr nbl South Ndebele; nv nav
    Navajo; ny nya Chichewa; oc oci Occitan; om gaz Oromo; pi pli Pali; rm roh Romansh; rn run Kirundi; rw kin
    Kinyarwanda; sc srd Sardinian; se sme Northern Sami; sg sag Sango; sk slk Slovak; sm smo Samoan; sn sna Shona;
    so som Somali; sq als Albanian; ss ssw Swati; st sot Southern Sotho; su sun Sundanese; tk tuk Turkmen; tn tsn
    Tswana; to ton Tongan; ts tso Tsonga; tw twi Twi; ty tah Tahitian; uz uzn Uzbek; ve ven Venda; vo vol Volapük;
    wa wln Walloon; wo wol Wolof; yo yor Yoruba; za zha Zhuang; zu zul Zulu; ace Acehnese; ach Acoli; ang Old
    English; arn Mapuche; ast Asturian; ban Balinese; bem Bemba; bjn Banjar; bug Buginese; ceb Cebuano; chk
    Chuukese; cjk Chokwe; crh Crimean Tatar; dik Southwestern Dinka; dsb Lower Sorbian; dyu Dyula; ext Extremaduran;
    fon Fon; frr Northern Frisian; fur Friulian; gag Gagauz; gcr Guianese Creole; gsw Swiss German; guw Gun; haw
    Hawaiian; hil Hiligaynon; hsb Upper Sorbian; ilo Iloko; kab Kabyle; kac Jingpho; kam Kamba; kbp Kabiye; kea
    Kabuverdianu; kha Khasi; kmb Kimbundu; kri Krio; lij Ligurian; lmo Lombard; lou Louisiana Creole; ltg Latgalian;
    lua Luba-Lulua; luo Luo; lus Mizo; mad Madurese; mfe Morisyen; min Minangkabau; mos Mossi; mwl Mirandese; nds
    Low German; nso Northern Sotho; nus Nuer; nyn Nyankole; pag Pangasinan; pam Pampanga; pap Papiamento; pcm
    Nigerian Pidgin; quc K'iche'; rom Romany; scn Sicilian; sco Scots; smn Inari Sami; srn Sranan Tongo; szl
    Silesian; taq Tamasheq; teo Teso; tet Tetum; tpi Tok Pisin; tum Tumbuka; umb Umbundu; vec Venetian; war Waray;
    yua Yucatec Maya""",
    "Cyrl": """
    ab abk Abkhazian; av ava Avaric; ba bak Bashkir; be bel Belarusian; ce che Chechen; cu chu Church Slavic; cv chv
    Chuvash; kv kpv Komi; ky kir Kyrgyz; os oss Ossetic; sr srp Serbian; tg tgk Tajik; tt tat Tatar; bua Buriat; inh
    Ingush; kbd Kabardian; krc Karachay-Balkar; lez Lezghian; mdf Moksha; mhr Meadow Mari; mrj Hill Mari; myv Erzya;
    sah Yakut; tyv Tuvinian; udm Udmurt; xal Kalmyk""",
    "Arab": """
    ks kas Kashmiri; sd snd Sindhi; ug uig Uyghur; acm Mesopotamian Arabic; apc Levantine Arabic; ars Najdi Arabic;
    ary Moroccan Arabic; arz Egyptian Arabic; bal Baluchi; ckb Central Kurdish; lah Lahnda; pnb Western Punjabi; skr
    Saraiki""",
    "Deva": """
    sa san Sanskrit; awa Awadhi; bho Bhojpuri; brx Bodo; doi Dogri; gom Goan Konkani; hne Chhattisgarhi; kok
    Konkani; mag Magahi; mai Maithili""",
    "Cans": """
    cr cre Cree; iu iku Inuktitut; oj oji Ojibwa""",
    "Hans": """
    hak Hakka Chinese; nan Min Nan Chinese; wuu Wu Chinese""",
    "Tfng": """
    shi Tachelhit; tzm Central Atlas Tamazight; zgh Standard Moroccan Tamazight""",
    "Beng": """
    as asm Assamese; mni Manipuri""",
    "Ethi": """
    am amh Amharic; ti tir Tigrinya""",
    "Hant": """
    lzh Literary Chinese; yue Cantonese""",
    "Tibt": """
    bo bod Tibetan; dz dzo Dzongkha""",
    "Armn": """
    hy hye Armenian""",
    "Avst": """
    ae ave Avestan""",
    "Cher": """
    chr Cherokee""",
    "Goth": """
    got Gothic""",
    "Grek": """
    grc Ancient Greek""",
    "Guru": """
    pa pan Punjabi""",
    "Hebr": """
    yi ydd Yiddish""",
    "Knda": """
    kn kan Kannada""",
    "Laoo": """
    lo lao Lao""",
    "Mymr": """
    shn Shan""",
    "Nkoo": """
    nqo N'Ko""",
    "Olck": """
    sat Santali""",
    "Orya": """
    or ory Odia""",
    "Syrc": """
    syr Syriac""",
    "Thaa": """
    dv div Dhivehi""",
    "Yiii": """
    ii iii Sichuan Yi""",
}
_UNSPACED = frozenset({"Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Yiii", "Lana"})
"""Scripts that write no space between words."""


def _named(script: str, rows: str) -> Iterator[Language]:
    for row in " ".join(rows.split()).split("; "):
        code, name = row.split(" ", 1)
        code3, name = name.split(" ", 1) if len(code) == 2 else (code, name)
        yield Language(code, code3, name, script, space_of(script), "low", {})


def space_of(script: str) -> str:
    """What a script writes between words: a space, or nothing."""
    return "" if script in _UNSPACED else " "


OTHERS: dict[str, Language] = {row.code: row for script, rows in _NAMES.items() for row in _named(script, rows)}
_declared: dict[str, Language] = {}


def declare(rows: Mapping[str, Language]) -> None:
    """Let `rows` stand before the tables in this process, in the place of what was declared before.

    A process reads or runs the trials of one study at a time; each trial declares its own languages when it begins.
    """
    _declared.clear()
    _declared.update(rows)


def language_row(code: str) -> Language:
    """The row of a language: as it was declared, else of the tables.

    Raises: KeyError for a code that is in none; a configuration refuses it before.
    """
    return _declared.get(code) or LANGUAGES.get(code) or OTHERS[code]


def find_language(code: str) -> Language | None:
    """As `language_row`; None for a code that is in none."""
    return language_row(code) if is_known(code) or code in _declared else None


def is_known(code: str) -> bool:
    """Whether the tables have a code."""
    return code in LANGUAGES or code in OTHERS


def may_be_declared(code: str) -> bool:
    """Whether a code that the tables lack may be one of ISO 639-3, which has thousands."""
    return re.fullmatch(r"[a-z]{3}", code) is not None and not known_language(code)


def known_codes() -> list[str]:
    """Every code of the tables and of what was declared."""
    return list(dict.fromkeys((*LANGUAGES, *OTHERS, *_declared)))


def described(
    code: str, *, name: str | None = None, script: str | None = None, words: Mapping[str, str] | None = None
) -> Language:
    """The row of a language with a name, script or prompt words of one's own.

    Args:
        code: of the tables, where what is not given comes from, or any other with `name` and `script`.
        words: prompt words by the names of `WORDS`.
    """
    row = LANGUAGES.get(code) or OTHERS.get(code) or Language(code, code, code, script or "", " ", "low", {})
    return Language(
        code=code,
        code3=row.code3,
        name=name or row.name,
        script=script or row.script,
        space=space_of(script) if script else row.space,
        resource=row.resource,
        words={**row.words, **(words or {})},
    )


# What people write for a language: codes of before, of countries, and of macro-languages, by the code here.
_WRITTEN = {
    **{"iw": "he", "in": "id", "jp": "ja", "cn": "zh", "gr": "el", "ua": "uk", "cz": "cs", "vn": "vi"},
    **{"ge": "ka", "kz": "kk", "kh": "km", "lk": "si", "ir": "fa", "bd": "bn", "ph": "tl", "fil": "tl"},
    **{"cmn": "zh", "chi": "zh", "zht": "zh", "zhs": "zh", "ara": "ar", "fas": "fa", "per": "fa", "aze": "az"},
    **{"est": "et", "ekk": "et", "ger": "de", "fre": "fr", "gre": "el", "dut": "nl", "rum": "ro", "cze": "cs"},
    **{"lav": "lv", "mon": "mn", "nep": "ne", "pus": "ps", "swa": "sw", "bur": "my", "geo": "ka"},
    **{"mac": "mk", "baq": "eu", "sp": "es", "quy": "qu", "ji": "yi", "yid": "yi", "sh": "sr", "msa": "ms"},
    **{"may": "ms", "sqi": "sq", "alb": "sq", "uzb": "uz", "arm": "hy", "mlg": "mg", "ful": "ff", "aym": "ay"},
    **{"tib": "bo", "ice": "is", "wel": "cy", "mao": "mi", "slo": "sk", "ori": "or", "orm": "om", "kur": "ku"},
    **{"kau": "kr"},
}
# Names of files that country codes beside a language are no language in: Brazil beside Portuguese is no Breton.
_REGIONS = {
    **{"ar": "ae dz sa sd so ly", "de": "li lu ch", "en": "ca ie sg za ng", "es": "bo co cr cu gn pa pe ve"},
    **{"fr": "be ca ch lu ga", "it": "ch", "ko": "kr", "nl": "be sr", "pt": "ao br", "zh": "sg tw mo"},
    **{"et": "ee", "af": "za na", "bn": "as", "sw": "rw ug", "ta": "sg", "qu": "bo", "be": "by", "az": "ge"},
}
# Those of them that name no file here: another script.
_NOT_IN_NAMES = ("zht",)
_OTHER_SCRIPTS = {"Kore": "Hang", "Hans": "Hani"}
"""What a script of the table is called too."""
_TRADITIONAL = ("tw", "hk", "mo")
"""Regions that write Chinese in Hant."""
_BY_WORD = {word: row.code for row in (*OTHERS.values(), *LANGUAGES.values()) for word in (row.code3, row.name.lower())}
"""Codes by what else names them."""


def unknown_language(code: str) -> str:
    """What to say of a code that no table has: what to write instead, or how to declare it.

    Args:
        code: as it was written: `iw`, `zh-Hans`, `zho_Hans`, `en-US`, `Thai`, ...
    """
    if meant := known_language(code):
        return f"{code!r} is unknown; write {meant}"
    if may_be_declared(code):
        return f"{code!r} is not in the table; say what it is: {WORDS_FIELD}: {{{code}: {{name: ..., script: Latn}}}}"
    if (known := _meant(_parts(code)[0])) and (row := LANGUAGES.get(known) or OTHERS.get(known)):
        return (
            f"{code!r} is unknown; {known} is {row.name} in {row.script}, so write {known}, and for another script "
            f"{WORDS_FIELD}: {{{known}: {{script: ...}}}}"
        )
    return (
        f"{code!r} is unknown; allowed: codes of ISO 639, of two letters or of three ({', '.join(LANGUAGES)}, ...); "
        f"fix: `afp languages` lists them with their names"
    )


def known_language(code: str) -> str:
    """The code of the tables that another way of writing a language means; "" where it means none of them."""
    whole = _meant(code.strip().lower())
    if whole:
        return "" if code.strip().lower() == "zht" else whole
    first, *rest = _parts(code)
    meant = _meant(first)
    row = LANGUAGES.get(meant) or OTHERS.get(meant)
    if row is None:
        return ""
    script = next((part.title() for part in rest if len(part) == 4 and part.isalpha()), "")
    if not script and row.code == "zh" and any(part in _TRADITIONAL for part in rest):
        script = "Hant"
    return row.code if script in ("", row.script, _OTHER_SCRIPTS.get(row.script)) else ""


def _parts(code: str) -> list[str]:
    """Language, and what else of script and region."""
    return code.strip().lower().replace("-", "_").split("_")


def _meant(word: str) -> str:
    """The code that a single word means; "" for none."""
    return word if is_known(word) else _WRITTEN.get(word) or _BY_WORD.get(word, "")


def name_pattern(code: str) -> str:
    """A regular expression of the ways in which names of files write a language: `zh_CN`, `zho_Hans`, `cmn`, `pt-BR`.

    A script that is not the language's own is none of them (`zho_Hant`), nor are two small letters that are another
    language (`en-zh`), where a region would stand.
    """
    row = language_row(code)
    return _pattern(row.code, row.code3, row.name, row.script)


@cache
def _pattern(code: str, code3: str, name: str, written_in: str) -> str:
    words = [code, code3, name, *(word for word, meant in _WRITTEN.items() if meant == code)]
    own = "|".join(re.escape(word) for word in words if word not in _NOT_IN_NAMES)
    script = "|".join(name for name in (written_in, _OTHER_SCRIPTS.get(written_in)) if name)
    regions = _REGIONS.get(code, "").split()
    short = (other for other in (*LANGUAGES, *OTHERS) if len(other) == 2)
    others = "|".join(other for other in short if other != code and other not in regions)
    region = rf"[A-Z]{{2}}|(?!(?:{others})(?![a-z]))[a-z]{{2}}|\d{{3}}"
    return rf"(?i:{own})(?:[-_](?i:{script}))?(?:[-_](?:{region}))?"
