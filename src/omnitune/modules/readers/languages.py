"""Codes by which Tesseract's models are called, found by what people call a language."""

CODES = {
    "afr": "afrikaans af", "ara": "arabic ar", "ben": "bengali bangla bn", "bul": "bulgarian bg", "cat": "catalan ca",
    "ces": "czech cestina cs cz cze", "chi_sim": "chinese simplified-chinese zh zh-cn chi zho",
    "chi_tra": "traditional-chinese zh-tw zh-hant", "cym": "welsh cy wel", "dan": "danish dansk da",
    "deu": "german deutsch de ger", "ell": "greek el gre", "eng": "english en", "est": "estonian et",
    "eus": "basque euskara eu baq", "fas": "persian farsi fa per", "fin": "finnish suomi fi",
    "fra": "french francais français fr fre", "gle": "irish gaeilge ga", "glg": "galician gl", "heb": "hebrew he iw",
    "hin": "hindi hi", "hrv": "croatian hrvatski hr", "hun": "hungarian magyar hu", "hye": "armenian hy arm",
    "ind": "indonesian id", "isl": "icelandic is ice", "ita": "italian italiano it", "jpn": "japanese ja jp",
    "kat": "georgian ka geo", "kor": "korean ko kr", "lat": "latin la", "lav": "latvian lv", "lit": "lithuanian lt",
    "mkd": "macedonian mk mac", "mlt": "maltese mt", "msa": "malay ms may",
    "nld": "dutch nederlands flemish nl dut", "nor": "norwegian norsk no nb nn", "pol": "polish polski pl",
    "por": "portuguese portugues português pt", "ron": "romanian ro rum", "rus": "russian ru",
    "slk": "slovak sk slo", "slv": "slovenian slovene sl", "spa": "spanish castilian espanol español es",
    "sqi": "albanian sq alb", "srp": "serbian sr", "swa": "swahili sw", "swe": "swedish svenska sv", "tam": "tamil ta",
    "tel": "telugu te", "tha": "thai th", "tur": "turkish türkçe turkce tr", "ukr": "ukrainian uk",
    "urd": "urdu ur", "vie": "vietnamese vi",
}  # fmt: skip
"""Names, in English and their own, and codes of ISO 639 by which languages are known, by Tesseract's code."""


def tesseract_code(name: str) -> str | None:
    """Tesseract's code of a language that is named in another way; None where it is not known or is the code itself.

    Example:
        >>> tesseract_code("German"), tesseract_code("de"), tesseract_code("deu")
        ('deu', 'deu', None)
    """
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    return next((code for code, names in CODES.items() if plain in names.split()), None)
