"""Words that know what they translate, and the small closed classes: pronouns, determiners, prepositions, times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from . import lexicon as lex

VOWELS = frozenset("aàâeéèêëiîïoôuùûyœhAEÉIOUHA")
BEFORE_VOWEL = {
    "je": "j'",
    "le": "l'",
    "la": "l'",
    "de": "d'",
    "ne": "n'",
    "que": "qu'",
    "me": "m'",
    "se": "s'",
    "ma": "mon",
    "sa": "son",
}


class En:
    """One English word; its identity is what alignments point to, `position` is set when the sentence is complete."""

    __slots__ = ("position", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = -1


class Fr(NamedTuple):
    text: str
    before_vowel: str | None
    sources: tuple[tuple[En, float], ...]


class Pair(NamedTuple):
    source: list[str]  # English words, lower case, contractions expanded
    target: list[str]  # French words; "l'" stands alone, the word after it is glued
    alignment: list[list[tuple[int, float]]]  # per French word, weights over English words, sum 1


@dataclass
class Phrase:
    """A noun phrase or pronoun: English words, French words, and what verbs and adjectives must agree with."""

    en: list[En]
    fr: list[Fr]
    person: int = 2
    gender: str = "m"
    plural: bool = False
    kind: str = "person"
    antecedent: bool = False  # a later pronoun can refer to it


def words(text: str) -> list[En]:
    return [En(word) for word in text.split()]


def fr(text: str, *sources: En, before_vowel: str | None = None) -> Fr:
    """A French word aligned evenly to `sources`."""
    return Fr(text, before_vowel or BEFORE_VOWEL.get(text), tuple((source, 1 / len(sources)) for source in sources))


def fr_main(text: str, main: En, others: list[En], share: float, before_vowel: str | None = None) -> Fr:
    """A French word aligned to `main`, with `share` of the weight spread over `others`."""
    if not others:
        return fr(text, main, before_vowel=before_vowel)
    rest = tuple((other, share / len(others)) for other in others)
    return Fr(text, before_vowel or BEFORE_VOWEL.get(text), ((main, 1 - share), *rest))


def starts_with_vowel(word: str) -> bool:
    return word[0] in VOWELS and word not in lex.NO_ELISION


def merge_preposition(preposition: str, sources: tuple[En, ...], phrase: list[Fr]) -> list[Fr]:
    """de + le = du, de + les = des, à + le = au, à + les = aux; otherwise the preposition alone."""
    first = phrase[0]
    merged = {("de", "le"): "du", ("de", "les"): "des", ("à", "le"): "au", ("à", "les"): "aux"}
    article = merged.get((preposition, first.text))
    if article is None or (first.text == "le" and starts_with_vowel(phrase[1].text)):
        return [fr(preposition, *sources), *phrase]
    halves = tuple((word, 0.4 / len(sources)) for word in sources) + tuple((w, 0.6 * s) for w, s in first.sources)
    return [Fr(article, None, halves), *phrase[1:]]


PRONOUNS = (
    ("i", "je", 0, "m", False),
    ("you", "vous", 1, "m", False),
    ("he", "il", 2, "m", False),
    ("she", "elle", 2, "f", False),
    ("it", "il", 2, "m", False),
    ("we", "nous", 3, "m", True),
    ("they", "ils", 4, "m", True),
)
CLITICS = (
    ("me", "me", "m", False),
    ("you", "vous", "m", False),
    ("him", "le", "m", False),
    ("her", "la", "f", False),
    ("it", "le", "m", False),
    ("us", "nous", "m", True),
    ("them", "les", "m", True),
)
DATIVES = (("me", "me"), ("you", "vous"), ("him", "lui"), ("her", "lui"), ("us", "nous"), ("them", "leur"))
POSSESSIVES = {
    "my": ("mon", "ma", "mes"),
    "your": ("votre", "votre", "vos"),
    "his": ("son", "sa", "ses"),
    "her": ("son", "sa", "ses"),
    "its": ("son", "sa", "ses"),
    "our": ("notre", "notre", "nos"),
    "their": ("leur", "leur", "leurs"),
}
NAMES = [(en, fr_, "m") for en, fr_ in lex.pairs(lex.NAMES_M)] + [(en, fr_, "f") for en, fr_ in lex.pairs(lex.NAMES_F)]
NUMBERS, CITIES, COUNTRIES, DAYS, LANGUAGES = (
    lex.pairs(table) for table in (lex.NUMBERS, lex.CITIES, lex.COUNTRIES, lex.DAYS, lex.LANGUAGES)
)
DETERMINERS = {  # (name, weight) by number of the noun
    "singular": ("a the this that possessive genitive one every", (28, 28, 5, 5, 20, 6, 3, 4)),
    "plural": (
        "the these those possessive genitive number some bare several many all",
        (24, 5, 5, 17, 5, 18, 10, 12, 4, 4, 4),
    ),
    "mass": ("the some bare possessive this much little", (24, 32, 16, 10, 5, 5, 5)),
}
FREQUENCY = (
    ("often", "souvent"),
    ("always", "toujours"),
    ("sometimes", "parfois"),
    ("rarely", "rarement"),
    ("never", "jamais"),
)
MANNER = (
    "slowly|lentement",
    "quietly|doucement",
    "together|ensemble",
    "here|ici",
    "there|là",
    "at home|à la maison",
    "outside|dehors",
)
TIMES = {
    "present": (
        "now|maintenant",
        "today|aujourd'hui",
        "every day|chaque jour",
        "in the morning|le matin",
        "in the evening|le soir",
        "this week|cette semaine",
    ),
    "past": ("yesterday|hier", "last night|hier soir", "this morning|ce matin", "today|aujourd'hui", "day|", "day|"),
    "future": (
        "tomorrow|demain",
        "tonight|ce soir",
        "soon|bientôt",
        "next week|la semaine prochaine",
        "next month|le mois prochain",
        "day|",
        "day|",
    ),
}
PLACES = (
    ("in", "dans"),
    ("on", "sur"),
    ("under", "sous"),
    ("behind", "derrière"),
    ("in front of", "devant"),
    ("near", "près de"),
    ("next to", "à côté de"),
)
GREETINGS = (
    "hello|bonjour",
    "good morning|bonjour",
    "good evening|bonsoir",
    "good night|bonne nuit",
    "goodbye|au revoir",
    "thank you|merci",
    "yes|oui",
    "no|non",
    "i am sorry|je suis désolé",
)
FIXED_QUESTIONS = (
    "how are you|comment allez -vous",
    "what is your name|comment vous appelez -vous",
    "what is his name|comment s' appelle -t-il",
    "what is her name|comment s' appelle -t-elle",
    "what is this|qu' est-ce que c' est",
    "what is that|qu' est-ce que c' est",
    "what is it|qu' est-ce que c' est",
    "who is he|qui est -il",
    "who is she|qui est -elle",
    "who are they|qui sont -ils",
    "who are you|qui êtes -vous",
)
STATES = ("hungry|faim", "thirsty|soif", "sleepy|sommeil", "right|raison", "wrong|tort", "afraid|peur")
WEATHER = (
    ("it is raining", "il pleut"),
    ("it is snowing", "il neige"),
    ("it is hot", "il fait chaud"),
    ("it is cold", "il fait froid"),
    ("it was raining", "il pleuvait"),
    ("it was cold", "il faisait froid"),
    ("it was hot", "il faisait chaud"),
    ("it will rain", "il pleuvra"),
    ("it will be cold", "il fera froid"),
    ("it will be hot", "il fera chaud"),
)
PROFESSIONS = [
    n
    for n in lex.NOUN_KINDS["person"]
    if n.en
    in (
        "teacher",
        "doctor",
        "singer",
        "baker",
        "farmer",
        "actor",
        "actress",
        "nurse",
        "lawyer",
        "engineer",
        "waiter",
        "writer",
        "painter",
        "soldier",
    )
]
TENSES = (
    "present",
    "progressive",
    "past",
    "perfect",
    "past progressive",
    "future",
    "going",
    "can",
    "must",
    "want",
    "would like",
)
TENSE_WEIGHTS = (20, 20, 18, 7, 7, 10, 5, 5, 4, 5, 3)
TIME_OF = {
    "present": "present",
    "progressive": "present",
    "past": "past",
    "past progressive": "past",
    "future": "future",
    "going": "future",
}
MODALS = {"going": lex.ALLER, "can": lex.POUVOIR, "must": lex.DEVOIR, "want": lex.VOULOIR, "would like": lex.VOULOIR}


def finish(english: list[En], french: list[Fr]) -> Pair:
    """Number the English words, elide the French ones, turn word objects into positions."""
    for position, word in enumerate(english):
        word.position = position
    target: list[str] = []
    following = ""
    for part in reversed(french):
        text = part.text
        if part.before_vowel and following and starts_with_vowel(following):
            text = part.before_vowel
        target.append(text)
        following = text
    target.reverse()
    alignment = []
    for part in french:
        row: dict[int, float] = {}
        for source, weight in part.sources:
            row[source.position] = row.get(source.position, 0.0) + weight
        alignment.append(sorted(row.items()))
    return Pair([word.text for word in english], target, alignment)


def is_glued(before: str, word: str) -> bool:
    """Whether a French word follows the one before it without a space."""
    return before.endswith("'") or word in (".", ",") or word.startswith("-")


def french_text(target: list[str]) -> str:
    """The words as a reader sees them: "l'" and the word after it together, a space before ? and ! but not before a stop."""
    text = ""
    for word in target:
        text += word if not text or is_glued(text, word) else " " + word
    return text
