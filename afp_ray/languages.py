"""One row per language: its codes, script, word space, resource class and the words that prompts need."""

from dataclasses import dataclass
from typing import Literal

from afp_ray.errors import TaskError

Resource = Literal["high", "middle", "low"]
WORDS = ("right", "yes", "also", "no", "because", "so")


@dataclass(frozen=True, slots=True)
class Language:
    """A language as the prompts and the tables see it.

    Attributes:
        code: ISO 639-1 code.
        code3: ISO 639-3 code, which some corpora name their files by.
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


# Words of the XNLI and XCOPA templates follow the wording of the public evaluation harness, so that numbers compare.
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
        _row("el", "ell", "Greek", "Grek", " ", "middle", "σωστός|Ναί|Έτσι|όχι|επειδή|άρα"),
        _row("hi", "hin", "Hindi", "Deva", " ", "middle", "सही|हाँ|इसलिए|नहीं|क्योंकि|इसलिए"),
        _row("id", "ind", "Indonesian", "Latn", " ", "middle", "benar|Ya|Juga|Tidak|karena|maka"),
        _row("ko", "kor", "Korean", "Kore", " ", "middle", "맞죠|예|또한|아니요|왜냐하면|그래서"),
        _row("th", "tha", "Thai", "Thai", "", "middle", "ถูกต้อง|ใช่|ดังนั้น|ไม่|เพราะ|ดังนั้น"),
        _row("tr", "tur", "Turkish", "Latn", " ", "middle", "doğru|Evet|Böylece|Hayır|çünkü|bu yüzden"),
        _row("vi", "vie", "Vietnamese", "Latn", " ", "middle", "đúng|Vâng|Vì vậy|Không|bởi vì|vì vậy"),
        _row("et", "est", "Estonian", "Latn", " ", "low", "õige|Jah|Samuti|Ei|sest|seetõttu"),
        _row("eu", "eus", "Basque", "Latn", " ", "low", ""),
        _row("ht", "hat", "Haitian Creole", "Latn", " ", "low", "||||poukisa|donk sa"),
        _row("my", "mya", "Burmese", "Mymr", "", "low", ""),
        _row("qu", "que", "Quechua", "Latn", " ", "low", "||||imataq|chaymi"),
        _row("sw", "swh", "Swahili", "Latn", " ", "low", "sahihi|Ndiyo|Hivyo|Hapana|kwa sababu|kwa hiyo"),
        _row("ta", "tam", "Tamil", "Taml", " ", "low", "||||காரணமாக|எனவே"),
        _row("te", "tel", "Telugu", "Telu", " ", "low", ""),
        _row("ur", "urd", "Urdu", "Arab", " ", "low", "صحیح|ہاں|اس لئے|نہیں|کیونکہ|اس لیے"),
    )
}
