r"""The expressions by which llama.cpp cuts text into words before merging, as Oniguruma reads them.

llama.cpp's engine is `std::regex` over text whose characters beyond ASCII are reduced to their
general category, and its expressions allow for that; what Oniguruma would read differently is
written out here so that the matches are the same ones: `$` is the end of the piece (`\z`), the
whitespace beyond ASCII belongs to no explicit class (`(?!\s)`). Some of its expressions are run by
functions of their own; here is what those do. Facts: src/llama-vocab.cpp and src/unicode.cpp of
llama.cpp.
"""

CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACE = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
OTHER = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACE

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}{OTHER}"
QWEN2 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}{OTHER}"
WORD_M = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
QWEN35_END = r"|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + SPACE
QWEN35 = f"{CONTRACTIONS}|{WORD_M}{QWEN35_END}"

# Capitals and small letters are told apart in ASCII only, and combining marks are no letters.
UP, LOW = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
CASED_END = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACE
TEKKEN = rf"{LEAD}{UP}*{LOW}+|{LEAD}{UP}+{LOW}*|\p{{N}}{CASED_END}"
GPT4O = (
    f"{LEAD}{UP}*{LOW}+{CONTRACTIONS}?|{LEAD}{UP}+{LOW}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}{CASED_END}"
)

ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
DEEPSEEK3 = (
    ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By number: Unicode normalization, wherever this file goes through it, changes some of them.
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
DEEPSEEK_WORDS = rf"\s?[{DEEPSEEK_LETTERS}]+"
DEEPSEEK_MARKS = r"\s?[!-/:-~！-／：-～‘-‟、-。]+"
DEEPSEEK_CJK = "(?:(?!\\s)[一-龥ࠀ-一가-\ud7ff])+"
KANA = "[一-龥\u3040-ゟ゠-ヿ]+"

BAILING = (
    rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{WORD}|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPARK = DEEPSEEK3.replace(r"+[\r\n]*|\s*[\r\n]+|", r"+|[\r\n]|")
YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[！…“”‘’—：；，、-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[一-龥\u3040-ゟ゠-ヿ]+"
)
CASCADE = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
CASCADE += r"|\s{1}"

FALCON_MARKS = r"[\p{P}\$\+<=>\^~\|`]+"
DEFAULT_MARKS = r"[\p{P}\$\+<=>\^~\|]+"
THREE_DIGITS = "[0-9][0-9][0-9]"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

# Digits in threes, counted from the end of their run; what stands before them stays with the first.
DIGIT_GROUPS = r"(?<=\p{N})(?=(?>(?:\p{N}{3})*)(?!\p{N}))"
SUPER_DIGITS = "(?=([0-9]{3})+(?![0-9]))"
MARKED_WORD = rf"{LEAD}[\p{{L}}\p{{M}}]+{CONTRACTIONS}?"
JOINED_WORDS = (
    rf"{CONTRACTIONS}|{LEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_HAN = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002ebef\U0002f800-\U0002fa1f"
)
KIMI = f"[{_HAN}]+|{LEAD}[\\p{{L}}&&[^{_HAN}]]+{CONTRACTIONS}?|\\p{{N}}{{1,3}}{OTHER}"
ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ud7ff\ue000-\ufaff\u3040-\u30ff\uff65-\uff9f"
    "\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"
    "\uac00-\ud7af\u1100-\u11ff]+"
)
LINES = r"[^\n]+|[\n]+"
