"""One row per language: its codes, script, word space, resource class and the words that prompts need."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from afp_ray.errors import TaskError

Resource = Literal["high", "middle", "low"]
WORDS = ("right", "yes", "also", "no", "because", "so")


@dataclass(frozen=True, slots=True)
class Language:
    """A language as the prompts and the tables see it.

    Attributes:
        code: ISO 639-1 code.
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

        Raises: TaskError naming the word and the file to edit, when this language has none.
        """
        if word not in self.words:
            raise TaskError(
                f"{self.name} ({self.code}) has no word for {word!r}",
                where="afp_ray/languages.py",
                allowed=f"languages with it: {', '.join(c for c, row in LANGUAGES.items() if word in row.words)}",
                fix=f"add the word to the row {self.code!r}, or score with prompt_language: pivot",
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

# What people write for a language: codes of before, of countries, and of macro-languages, by the code here.
_WRITTEN = {
    **{"iw": "he", "in": "id", "jp": "ja", "cn": "zh", "kr": "ko", "gr": "el", "ua": "uk", "cz": "cs", "vn": "vi"},
    **{"ee": "et", "ge": "ka", "kz": "kk", "kh": "km", "lk": "si", "ir": "fa", "bd": "bn", "ph": "tl", "fil": "tl"},
    **{"cmn": "zh", "chi": "zh", "zht": "zh", "zhs": "zh", "ara": "ar", "fas": "fa", "per": "fa", "aze": "az"},
    **{"est": "et", "ekk": "et", "ger": "de", "fre": "fr", "gre": "el", "dut": "nl", "rum": "ro", "cze": "cs"},
    **{"lav": "lv", "mon": "mn", "nep": "ne", "pus": "ps", "swa": "sw", "bur": "my", "geo": "ka"},
    **{"mac": "mk", "baq": "eu", "sp": "es", "br": "pt", "quy": "qu"},
}
# Those of them that name no file here: codes of other languages (Ewe, Kanuri, Breton), and another script.
_NOT_IN_NAMES = ("ee", "kr", "br", "zht")
_OTHER_SCRIPTS = {"Kore": "Hang", "Hans": "Hani"}
"""What a script of the table is called too."""
_TRADITIONAL = ("tw", "hk", "mo")
"""Regions that write Chinese in Hant."""
# Codes of languages that have no row, with the rows that they would have: of two norms, of before, of two scripts.
_ROWLESS = {
    **dict.fromkeys(("no", "nor"), ("Norwegian", "nb (Bokmål) or nn (Nynorsk)")),
    **dict.fromkeys(("nb", "nob"), ("Norwegian Bokmål", "nb")),
    **dict.fromkeys(("nn", "nno"), ("Norwegian Nynorsk", "nn")),
    **dict.fromkeys(("ji", "yi", "yid"), ("Yiddish", "yi")),
    **dict.fromkeys(("sr", "srp", "sh"), ("Serbian", "sr")),
}


def unknown_language(code: str) -> str:
    """What to say of a code that is none of `LANGUAGES`: what to write instead, or which there are.

    Args:
        code: as it was written: `iw`, `zh-Hans`, `zho_Hans`, `en-US`, `Thai`, ...
    """
    meant = known_language(code)
    if meant:
        return f"{code!r} is unknown; write {meant}"
    first = _parts(code)[0]
    if (row := LANGUAGES.get(_meant(first))) is not None:
        return (
            f"{code!r} is unknown; {row.code} is {row.name} in {row.script}, so convert the texts and write "
            f"{row.code}, or add a row to afp_ray/languages.py"
        )
    if first in _ROWLESS:
        name, rows = _ROWLESS[first]
        return f"{code!r} is unknown; {name} has no row yet, so add one to afp_ray/languages.py: {rows}"
    return f"{code!r} is unknown; allowed: {', '.join(sorted(LANGUAGES))}"


def known_language(code: str) -> str:
    """The code of `LANGUAGES` that another way of writing a language means; "" where it means none of them."""
    whole = _meant(code.strip().lower())
    if whole:
        return "" if code.strip().lower() == "zht" else whole
    first, *rest = _parts(code)
    row = LANGUAGES.get(_meant(first))
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
    by_code3 = {row.code3: row.code for row in LANGUAGES.values()}
    by_name = {row.name.lower(): row.code for row in LANGUAGES.values()}
    return _WRITTEN.get(word) or by_code3.get(word) or by_name.get(word) or (word if word in LANGUAGES else "")


@cache
def name_pattern(code: str) -> str:
    """A regular expression of the ways in which names of files write a language: `zh_CN`, `zho_Hans`, `cmn`, `pt-BR`.

    A script that is not the language's own is none of them (`zho_Hant`), nor are two small letters that are another
    language (`en-zh`), where a region would stand.
    """
    row = LANGUAGES[code]
    words = [row.code, row.code3, row.name, *(word for word, meant in _WRITTEN.items() if meant == code)]
    language = "|".join(re.escape(word) for word in words if word not in _NOT_IN_NAMES)
    script = "|".join(name for name in (row.script, _OTHER_SCRIPTS.get(row.script)) if name)
    others = "|".join(other for other in LANGUAGES if other != code)
    region = rf"[A-Z]{{2}}|(?!(?:{others})(?![a-z]))[a-z]{{2}}|\d{{3}}"
    return rf"(?i:{language})(?:[-_](?i:{script}))?(?:[-_](?:{region}))?"
