"""An endless supply of English–French sentence pairs with their word alignment, from a hand-written grammar.

    python -m examples.train.grammar --count 20 --seed 1          # print samples

Each English sentence has exactly one French translation. Where English leaves a choice the grammar always makes the
same one: "you" is the polite "vous" (masculine singular), "I" and "we" are masculine, "they" and "it" take the gender
of the main clause's subject if that can be their antecedent and are masculine otherwise.

Alignment rows say where the attention of a French word should lie: a determiner half on the English determiner and
half on the noun that gives it gender and number (wholly on the noun if English has no determiner), an adjective mainly
on its adjective, a verb form on the verb with a share for its auxiliary, the end token on the end token.
"""

from __future__ import annotations

import argparse
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from . import lexicon as lex
from .lexicon import Adjective, FrenchVerb, Noun, Verb

HELD_OUT_MODULUS = 25  # one French sentence in 25 is never trained on
VOWELS = frozenset("aàâeéèêëiîïoôuùûyœhAEÉIOUHA")
BEFORE_VOWEL = {"je": "j'", "le": "l'", "la": "l'", "de": "d'", "ne": "n'", "que": "qu'", "me": "m'", "se": "s'",
                "ma": "mon", "sa": "son"}


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


PRONOUNS = (("i", "je", 0, "m", False), ("you", "vous", 1, "m", False), ("he", "il", 2, "m", False),
            ("she", "elle", 2, "f", False), ("it", "il", 2, "m", False), ("we", "nous", 3, "m", True),
            ("they", "ils", 4, "m", True))
CLITICS = (("me", "me", "m", False), ("you", "vous", "m", False), ("him", "le", "m", False), ("her", "la", "f", False),
           ("it", "le", "m", False), ("us", "nous", "m", True), ("them", "les", "m", True))
DATIVES = (("me", "me"), ("you", "vous"), ("him", "lui"), ("her", "lui"), ("us", "nous"), ("them", "leur"))
POSSESSIVES = {"my": ("mon", "ma", "mes"), "your": ("votre", "votre", "vos"), "his": ("son", "sa", "ses"),
               "her": ("son", "sa", "ses"), "its": ("son", "sa", "ses"), "our": ("notre", "notre", "nos"),
               "their": ("leur", "leur", "leurs")}
NAMES = [(en, fr_, "m") for en, fr_ in lex.pairs(lex.NAMES_M)] + [(en, fr_, "f") for en, fr_ in lex.pairs(lex.NAMES_F)]
NUMBERS, CITIES, COUNTRIES, DAYS = (lex.pairs(t) for t in (lex.NUMBERS, lex.CITIES, lex.COUNTRIES, lex.DAYS))
DETERMINERS = {  # (name, weight) by number of the noun
    "singular": ("a the this that possessive genitive one every", (28, 28, 5, 5, 20, 6, 3, 4)),
    "plural": ("the these those possessive number some bare several many all", (24, 5, 5, 17, 18, 10, 12, 4, 4, 4)),
    "mass": ("the some bare possessive this much little", (24, 32, 16, 10, 5, 5, 5)),
}
FREQUENCY = (("often", "souvent"), ("always", "toujours"), ("sometimes", "parfois"), ("rarely", "rarement"),
             ("never", "jamais"))
MANNER = ("slowly|lentement", "quietly|doucement", "together|ensemble", "here|ici", "there|là", "at home|à la maison",
          "outside|dehors")
TIMES = {
    "present": ("now|maintenant", "today|aujourd'hui", "every day|chaque jour", "in the morning|le matin",
                "in the evening|le soir", "this week|cette semaine"),
    "past": ("yesterday|hier", "last night|hier soir", "this morning|ce matin", "today|aujourd'hui", "day|", "day|"),
    "future": ("tomorrow|demain", "tonight|ce soir", "soon|bientôt", "next week|la semaine prochaine",
               "next month|le mois prochain", "day|", "day|"),
}
PLACES = (("in", "dans"), ("on", "sur"), ("under", "sous"), ("behind", "derrière"), ("in front of", "devant"),
          ("near", "près de"), ("next to", "à côté de"))
STATES = ("hungry|faim", "thirsty|soif", "sleepy|sommeil", "right|raison", "wrong|tort", "afraid|peur")
WEATHER = (("it is raining", "il pleut"), ("it is snowing", "il neige"), ("it is hot", "il fait chaud"),
           ("it is cold", "il fait froid"), ("it was raining", "il pleuvait"), ("it was cold", "il faisait froid"),
           ("it was hot", "il faisait chaud"), ("it will rain", "il pleuvra"), ("it will be cold", "il fera froid"),
           ("it will be hot", "il fera chaud"))
PROFESSIONS = [n for n in lex.NOUN_KINDS["person"] if n.en in
               "teacher doctor singer baker farmer actor actress nurse lawyer engineer waiter writer painter soldier"
               .split()]
TENSES = ("present", "progressive", "past", "perfect", "past progressive", "future", "going", "can", "must", "want",
          "would like")
TENSE_WEIGHTS = (20, 20, 18, 7, 7, 10, 5, 5, 4, 5, 3)
TIME_OF = {"present": "present", "progressive": "present", "past": "past", "past progressive": "past",
           "future": "future", "going": "future"}
MODALS = {"going": lex.ALLER, "can": lex.POUVOIR, "must": lex.DEVOIR, "want": lex.VOULOIR, "would like": lex.VOULOIR}


class Grammar:
    """Draws sentences. `unknown` is the chance that a noun, adjective or name is one the vocabulary does not have."""

    def __init__(self, seed: int, unknown: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.unknown = unknown

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    # ------------------------------------------------------------------------------------------------ noun phrases
    def noun(self, kinds: tuple[str, ...]) -> Noun:
        if self.unknown and self.chance(self.unknown):
            return lex.UNKNOWN_NOUN
        kind = self.random.choices(kinds, [len(lex.NOUN_KINDS[kind]) for kind in kinds])[0]
        return self.random.choice(lex.NOUN_KINDS[kind])

    def adjective(self, kind: str) -> Adjective:
        if self.unknown and self.chance(self.unknown):
            return lex.UNKNOWN_ADJECTIVE
        allowed = "pb" if kind in ("person", "animal") else "tbe" if kind == "text" else "tb"
        while True:
            adjective = self.random.choice(lex.ADJECTIVES)
            if adjective.kinds in allowed:
                return adjective

    def name(self) -> Phrase:
        en, french, gender = self.random.choice(NAMES)
        if self.unknown and self.chance(2 * self.unknown):
            en, french, gender = lex.UNKNOWN, lex.UNKNOWN, "m"
        word = En(en)
        return Phrase([word], [fr(french, word)], 2, gender, False, "person", True)

    def owner(self) -> Phrase:
        if self.chance(0.6):
            return self.name()
        noun = self.random.choice(lex.NOUN_KINDS["person"])
        return self.noun_phrase(noun, determiner=self.random.choice(("the", "possessive")), plain=True, plural=False)

    def noun_phrase(self, noun: Noun, *, negative: bool = False, question: bool = False, generic: bool = False,
                    plural: bool | None = None, determiner: str | None = None, plain: bool = False) -> Phrase:
        """`negative`: object of a negated verb, "une" becomes "de"; `generic`: bare nouns take "le" (verbs of liking)."""
        if plural is None:
            plural = not noun.mass and self.chance(0.38)
        number = "mass" if noun.mass else "plural" if plural else "singular"
        if determiner is None:
            names, weights = DETERMINERS[number]
            determiner = self.random.choices(names.split(), weights)[0]
        if noun is lex.UNKNOWN_NOUN and plural and determiner in ("the", "possessive", "some", "bare", "all"):
            determiner = "number"  # English must show the number of a word it does not know
        head = En(noun.en_plural if plural else noun.en)
        gender = noun.gender
        french_noun = fr(noun.fr_plural if plural else noun.fr, head)
        english, before, after = self.adjectives(noun, plural, head) if not plain and self.chance(0.3) else ([], [], [])
        core = [*before, french_noun, *after]
        if determiner == "genitive":
            owner, mark = self.owner(), En("'s")
            article = fr("les" if plural else "le" if gender == "m" else "la", mark, head)
            tail = merge_preposition("de", (mark,), owner.fr)
            return Phrase([*owner.en, mark, *english, head], [article, *core, *tail], 2, gender, plural, noun.kind, True)
        en_det, fr_det = self.determiner(determiner, noun, plural, head, core, bool(before), negative, question, generic)
        if determiner == "a" and en_det:
            first = (english or [head])[0].text
            en_det[0].text = "an" if first[0] in "aeiou" and not first.startswith(("uni", "use")) else "a"
        phrase = Phrase([*en_det, *english, head], [*fr_det, *core], 4 if plural else 2, gender, plural, noun.kind, True)
        if noun.kind == "person" and not plain and self.chance(0.03):
            self.add_relative(phrase)
        elif noun.kind in ("opening", "furniture", "thing", "place") and determiner == "the" and not plain \
                and self.chance(0.06):
            of, owner = En("of"), self.owner_place()
            phrase.en += [of, *owner.en]
            phrase.fr += merge_preposition("de", (of,), owner.fr)
        return phrase

    def owner_place(self) -> Phrase:
        if self.chance(0.3):
            return self.name()
        return self.noun_phrase(self.noun(("place", "person")), determiner=self.random.choice(("the", "possessive")),
                                plain=True, plural=False)

    def adjectives(self, noun: Noun, plural: bool, head: En) -> tuple[list[En], list[Fr], list[Fr]]:
        """English adjectives in order, French ones before and after the noun: one, or one on each side."""
        first = self.adjective(noun.kind)
        chosen = [first]
        if first.before_noun and self.chance(0.2):
            second = self.adjective(noun.kind)
            if not second.before_noun:
                chosen.append(second)
        english, before, after = [], [], []
        for adjective in chosen:
            word = En(adjective.en)
            english.append(word)
            vowel = adjective.before_vowel if noun.gender == "m" and not plural else None
            french = fr_main(adjective.french(noun.gender, plural), word, [head], 0.2, vowel)
            (before if adjective.before_noun else after).append(french)
        return english, before, after

    def determiner(self, name: str, noun: Noun, plural: bool, head: En, core: list[Fr], adjective_first: bool,
                   negative: bool, question: bool, generic: bool) -> tuple[list[En], list[Fr]]:
        """English and French determiner; `core` is what follows it in French, for du / de l'."""
        feminine = noun.gender == "f"

        def pick(masculine: str, feminine_form: str, plural_form: str) -> str:
            return plural_form if plural else feminine_form if feminine else masculine

        if name in ("a", "some", "bare"):
            if name == "some":
                name = "any" if negative or (question and self.chance(0.5)) else "some"
            english = [] if name == "bare" else [En(name)]
            sources = [*english, head]
            if generic and name == "bare":
                return english, [fr(pick("le", "la", "les"), *sources)]
            if negative:
                return english, [fr("de", *sources)]
            if not noun.mass:
                indefinite = "de" if plural and adjective_first else pick("un", "une", "des")
                return english, [fr(indefinite, *sources)]
            if feminine or starts_with_vowel(core[0].before_vowel or core[0].text):
                return english, [fr("de", *sources), fr("la" if feminine else "le", *sources)]
            return english, [fr("du", *sources)]
        if name in ("several", "number"):
            en, french = ("several", "plusieurs") if name == "several" else self.random.choice(NUMBERS)
            word = En(en)
            return [word], [fr_main(french, word, [head], 0.3)]
        if name in ("many", "much", "little"):
            english = words({"many": self.random.choice(("many", "a lot of")), "much": "a lot of",
                             "little": "a little"}[name])
            quantity = [fr("un", *english), fr("peu", *english)] if name == "little" else [fr("beaucoup", *english)]
            return english, [*quantity, fr_main("de", english[-1], [head], 0.5)]
        if name == "all":
            every, article = En("all"), En("the")
            return [every, article], [fr("toutes" if feminine else "tous", every, head), fr("les", article, head)]
        if name == "possessive":
            owner = self.random.choice(tuple(POSSESSIVES))
            word = En(owner)
            return [word], [fr(pick(*POSSESSIVES[owner]), word, head)]
        if name in ("this", "that", "these", "those"):
            word = En(name)
            return [word], [fr(pick("ce", "cette", "ces"), word, head, before_vowel=pick("cet", "cette", "ces"))]
        word = En(name)
        masculine, feminine_form, plural_form = {"the": ("le", "la", "les"), "one": ("un", "une", ""),
                                                 "every": ("chaque", "chaque", "")}[name]
        return [word], [fr(pick(masculine, feminine_form, plural_form), word, head)]

    def add_relative(self, phrase: Phrase) -> None:
        """ "the man who is sleeping", "l'homme qui dort"."""
        who = En("who")
        subject = replace(phrase, en=[], fr=[], antecedent=False)
        aux, rest, french = self.verb_group(subject, self.random.choice(lex.INTRANSITIVES), self.tense(), False)
        phrase.en += [who, *aux, *rest]
        phrase.fr += [fr("qui", who), *french]

    def subject(self, antecedent: Phrase | None = None, kinds: tuple[str, ...] = ("person", "animal")) -> Phrase:
        """A subject; with an `antecedent`, half of the time the pronoun that stands for it."""
        if antecedent is not None and antecedent.antecedent and self.chance(0.5):
            return self.pronoun_for(antecedent)
        draw = self.random.random()
        if draw < 0.5 and "person" in kinds:
            en, french, person, gender, plural = self.random.choice(PRONOUNS)
            if en in ("it", "they") and antecedent is not None and antecedent.antecedent:
                return self.pronoun_for(antecedent)
            word = En(en)
            return Phrase([word], [fr(french, word)], person, gender, plural, "thing" if en == "it" else "person")
        if draw < 0.66 and "person" in kinds:
            return self.name()
        if draw < 0.72 and "person" in kinds:
            first, second, conjunction = self.name(), self.name(), En("and")
            gender = "f" if first.gender == second.gender == "f" else "m"
            return Phrase([*first.en, conjunction, *second.en], [*first.fr, fr("et", conjunction), *second.fr],
                          4, gender, True, "person", True)
        noun = self.noun(kinds)
        phrase = self.noun_phrase(noun, generic=True)
        phrase.person = 4 if phrase.plural else 2
        return phrase

    def pronoun_for(self, antecedent: Phrase) -> Phrase:
        feminine = antecedent.gender == "f"
        if antecedent.plural:
            word = En("they")
            return Phrase([word], [fr("elles" if feminine else "ils", word)], 4, antecedent.gender, True, antecedent.kind)
        is_person = antecedent.kind in ("person", "unknown")
        word = En("it" if not is_person else "she" if feminine else "he")
        return Phrase([word], [fr("elle" if feminine else "il", word)], 2, antecedent.gender, False, antecedent.kind)

    # ------------------------------------------------------------------------------------------------ verb phrases
    def tense(self) -> str:
        return self.random.choices(TENSES, TENSE_WEIGHTS)[0]

    def english_verb(self, subject: Phrase, verb: Verb, tense: str, support: bool) -> tuple[list[En], list[En], En]:
        """Auxiliaries to invert, the rest, and the main verb; `support`: a negation or question needs an auxiliary."""
        third = subject.person == 2
        be = ("am", "are", "is", "are", "are")[subject.person]
        was = "was" if subject.person in (0, 2) else "were"
        do = "does" if third else "do"
        if tense == "present" and not support:
            main = En(verb.third if third else verb.en)
            return [], [main], main
        if tense == "past" and not support:
            main = En(verb.past)
            return [], [main], main
        if tense == "want" and not support:
            main = En(verb.en)
            return [], [En("wants" if third else "want"), En("to"), main], main
        aux, middle, form = {
            "present": (do, "", verb.en), "past": ("did", "", verb.en), "progressive": (be, "", verb.ing),
            "perfect": ("has" if third else "have", "", verb.participle), "past progressive": (was, "", verb.ing),
            "future": ("will", "", verb.en), "going": (be, "going to", verb.en), "can": ("can", "", verb.en),
            "must": ("must", "", verb.en), "want": (do, "want to", verb.en), "would like": ("would", "like to", verb.en),
        }[tense]
        main = En(form)
        return [En(aux)], [*words(middle), main], main

    def usable(self, subject: Phrase, verb: Verb, tense: str, support: bool) -> str:
        """The nearest tense that reads well and is not ambiguous in English ("I read" is always the present)."""
        if verb.stative and tense in ("progressive", "past progressive"):
            return "present" if tense == "progressive" else "future"
        if tense == "past" and not support and verb.past == verb.en:
            return "perfect"
        if tense == "would like" and verb.en == "like":
            return "future"
        return tense

    def verb_group(self, subject: Phrase, verb: Verb, tense: str, negative: bool, *, question: bool = False,
                   adverb: tuple[str, str] | None = None, clitics: tuple[Fr, ...] = (),
                   agreement: tuple[str, bool] | None = None) -> tuple[list[En], list[En], list[Fr]]:
        """English auxiliaries (to invert), English rest, French verb group with its negation and clitics.

        `agreement` is the gender and number of a direct object before the verb, with which a participle agrees."""
        tense = self.usable(subject, verb, tense, negative or question)
        aux, rest, main = self.english_verb(subject, verb, tense, negative or question)
        negation = En("not") if negative else None
        before: list[Fr] = []
        after: list[Fr] = []
        if negation is not None:
            before, after = [fr("ne", negation)], [fr("pas", negation)]
        inner = [negation] if negation is not None else []
        if adverb is not None:
            word = En(adverb[0])
            inner.append(word)
            after.append(fr(adverb[1], word))
            if adverb[0] == "never":
                before = [fr("ne", word)]
        french = self.french_verb(subject, verb, tense, aux, rest, main, before, after, list(clitics), agreement)
        particle = words(" ".join(verb.particle))
        if question:
            return aux, [*inner, *rest, *particle], french
        return [*aux, *inner], [*rest, *particle], french

    def french_verb(self, subject: Phrase, verb: Verb, tense: str, aux: list[En], rest: list[En], main: En,
                    before: list[Fr], after: list[Fr], clitics: list[Fr],
                    agreement: tuple[str, bool] | None) -> list[Fr]:
        person, conjugated = subject.person, verb.fr
        helpers = [*aux, *[word for word in rest if word is not main]]
        if tense in MODALS:
            modal = MODALS[tense]
            form = modal.present[person] if tense != "would like" else modal.future_stem + lex.IMPERFECT[person]
            helpers = [word for word in helpers if word.text not in ("do", "does", "to")] or helpers
            return [*before, fr(form, *helpers), *after, *clitics, fr(conjugated.infinitive, main)]
        if tense == "perfect" or (tense == "past" and not verb.imperfect):
            auxiliary = lex.ETRE if conjugated.with_etre else lex.AVOIR
            agree = (subject.gender, subject.plural) if conjugated.with_etre else agreement or ("m", False)
            return [*before, *clitics, fr(auxiliary.present[person], *(helpers or [main])), *after,
                    fr(conjugated.participle_form(*agree), main)]
        if tense in ("present", "progressive"):
            form, share = conjugated.present[person], 0.2
        elif tense == "future":
            form, share = conjugated.future(person), 0.3
        else:
            form, share = conjugated.imperfect(person), 0.2
        return [*before, *clitics, fr_main(form, main, helpers, share), *after]

    def objects(self, verb: Verb, negative: bool, question: bool) -> Phrase:
        options = {"negative": negative and not verb.generic, "question": question, "generic": verb.generic}
        phrase = self.noun_phrase(self.noun(verb.objects), **options)
        if self.chance(0.06):
            second, conjunction = self.noun_phrase(self.noun(verb.objects), **options), En("and")
            phrase = Phrase([*phrase.en, conjunction, *second.en], [*phrase.fr, fr("et", conjunction), *second.fr])
        return phrase

    def place(self, preposition: str | None = None) -> Phrase:
        """A prepositional phrase of place: in the garden, near Paris, to Italy."""
        draw = self.random.random()
        if preposition is None and draw < 0.08:
            preposition, french = self.random.choice((("with", "avec"), ("without", "sans"), ("for", "pour")))
            company = self.name() if self.chance(0.3) else self.noun_phrase(
                self.noun(("person",)), determiner=self.random.choice(("the", "possessive")))
            word = En(preposition)
            return Phrase([word, *company.en], [fr(french, word), *company.fr])
        if draw < 0.2 and preposition in (None, "in", "to", "from"):
            return self.town(preposition or "in")
        if draw < 0.32 and preposition in (None, "in", "to", "from"):
            return self.country(preposition or "in")
        if preposition in ("to", "at", "from"):
            word = En(preposition)
            noun = self.noun_phrase(self.noun(("place",)), determiner=self.random.choice(("the", "the", "possessive")),
                                    plural=False)
            return Phrase([word, *noun.en], merge_preposition("de" if preposition == "from" else "à", (word,), noun.fr))
        english, french = self.random.choice(PLACES) if preposition is None else \
            next(entry for entry in PLACES if entry[0] == preposition)
        kinds = {"in": ("place",), "on": ("furniture",), "under": ("furniture",), "near": ("place", "furniture")}.get(
            english, ("place", "furniture", "opening", "vehicle"))
        determiner = self.random.choice(("the", "the", "the", "possessive", "a", "this", "genitive"))
        noun = self.noun_phrase(self.noun(kinds), determiner=determiner, plural=False)
        sources = words(english)
        *first, last = french.split()
        tail = merge_preposition(last, tuple(sources), noun.fr)
        return Phrase([*sources, *noun.en], [*[fr(word, *sources) for word in first], *tail])

    def town(self, preposition: str) -> Phrase:
        en, french = self.random.choice(CITIES)
        word, town = En(preposition), En(en)
        return Phrase([word, town], [fr("de" if preposition == "from" else "à", word), fr(french, town)])

    def country(self, preposition: str) -> Phrase:
        en, french, gender = self.random.choice(COUNTRIES)
        word, country = En(preposition), En(en)
        if preposition == "from":
            article = "de" if gender == "f" else "du"
        else:
            article = "en" if gender == "f" else "au"
        return Phrase([word, country], [fr(article, word, country), fr(french, country)])

    def time(self, tense: str) -> Phrase:
        choices = TIMES.get(TIME_OF.get(tense, ""), TIMES["present"][:2])
        english, _, french = self.random.choice(choices).partition("|")
        if english == "day":
            day, day_french = self.random.choice(DAYS)
            on, word = En("on"), En(day)
            return Phrase([on, word], [fr_main(day_french, word, [on], 0.2)])
        return self.fixed(english, french)

    def fixed(self, english: str, french: str) -> Phrase:
        """An idiom: word by word if both sides have as many words, otherwise all on all."""
        sources, targets = words(english), french.split()
        if len(sources) == len(targets):
            return Phrase(sources, [fr(text, source) for text, source in zip(targets, sources, strict=True)])
        return Phrase(sources, [fr(text, *sources) for text in targets])

    # ------------------------------------------------------------------------------------------------ clauses
    def predicate(self, subject: Phrase, question: bool) -> tuple[list[En], list[En], list[Fr]]:
        """Auxiliary words to invert in a question, the rest of the English clause, the French clause after its subject."""
        kind = self.random.choices(("transitive", "intransitive", "motion", "giving", "copula", "state"),
                                   (48, 12, 12, 8, 17, 3))[0]
        negative = self.chance(0.22)
        if kind == "state" and subject.kind != "person":
            kind = "copula"
        if kind == "copula":
            return self.copula(subject, negative, question)
        if kind == "state":
            aux, rest, french, sources = self.be(subject, negative, question, lex.AVOIR)
            english, _, state = self.random.choice(STATES).partition("|")
            word = En(english)
            return aux, [*rest, word], [*french, fr(state, word)]
        tense = self.tense()
        adverb = None
        if tense in ("present", "past", "perfect") and self.chance(0.12):
            adverb = self.random.choice(FREQUENCY[:4] if negative or question else FREQUENCY)
            negative_object = negative or adverb[0] == "never"
        else:
            negative_object = negative
        make = {"transitive": self.transitive, "intransitive": self.intransitive, "motion": self.motion,
                "giving": self.giving}[kind]
        aux, rest, french = make(subject, tense, negative, question, adverb, negative_object)
        if self.chance(0.16):
            time = self.time(tense)
            rest, french = rest + time.en, french + time.fr
        return aux, rest, french

    def transitive(self, subject: Phrase, tense: str, negative: bool, question: bool, adverb: tuple[str, str] | None,
                   negative_object: bool) -> tuple[list[En], list[En], list[Fr]]:
        verb = self.random.choice(lex.TRANSITIVES)
        if verb.en != "have" and self.chance(0.13):
            people = "person" in verb.objects
            en, french, gender, plural = self.random.choice(CLITICS if people else (CLITICS[4], CLITICS[6]))
            word = En(en)
            aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb,
                                               clitics=(fr(french, word),), agreement=(gender, plural))
            return aux, [*rest, word], group
        aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb)
        phrase = self.objects(verb, negative_object, question)
        rest, group = rest + phrase.en, group + phrase.fr
        if self.chance(0.15):
            place = self.place()
            rest, group = rest + place.en, group + place.fr
        return aux, rest, group

    def intransitive(self, subject: Phrase, tense: str, negative: bool, question: bool,
                     adverb: tuple[str, str] | None, _: bool) -> tuple[list[En], list[En], list[Fr]]:
        verb = self.random.choice(lex.INTRANSITIVES)
        aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb)
        draw = self.random.random()
        if draw < 0.6:
            extra = self.place() if draw < 0.35 else self.fixed(*self.random.choice(MANNER).split("|"))
            rest, group = rest + extra.en, group + extra.fr
        return aux, rest, group

    def motion(self, subject: Phrase, tense: str, negative: bool, question: bool, adverb: tuple[str, str] | None,
               _: bool) -> tuple[list[En], list[En], list[Fr]]:
        verb = self.random.choice(lex.MOTIONS)
        aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb)
        if verb.objects and (verb.en in ("live", "go") or self.chance(0.8)):
            place = self.place(self.random.choice(verb.objects))
            rest, group = rest + place.en, group + place.fr
        return aux, rest, group

    def giving(self, subject: Phrase, tense: str, negative: bool, question: bool, adverb: tuple[str, str] | None,
               negative_object: bool) -> tuple[list[En], list[En], list[Fr]]:
        """ "I give him a book", "I give a book to Paul", "I give it to Paul"."""
        verb = self.random.choice(lex.GIVINGS)
        thing = self.noun_phrase(self.noun(verb.objects), negative=negative_object, question=question)
        if self.chance(0.5):
            en, french = self.random.choice(DATIVES)
            word = En(en)
            aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb,
                                               clitics=(fr(french, word),))
            return aux, [*rest, word, *thing.en], [*group, *thing.fr]
        to = En("to")
        receiver = self.name() if self.chance(0.5) else self.noun_phrase(
            self.noun(("person",)), determiner=self.random.choice(("the", "possessive")), plain=True)
        clitics: tuple[Fr, ...] = ()
        agreement = None
        if self.chance(0.2):
            word = En("it")
            thing, clitics, agreement = Phrase([word], []), (fr("le", word),), ("m", False)
        aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb,
                                           clitics=clitics, agreement=agreement)
        return aux, [*rest, *thing.en, to, *receiver.en], [*group, *thing.fr, *merge_preposition("à", (to,), receiver.fr)]

    def be(self, subject: Phrase, negative: bool, question: bool,
           verb: FrenchVerb) -> tuple[list[En], list[En], list[Fr], list[En]]:
        """to be in the present, past or future, as `verb` (être, or avoir for hunger and the like)."""
        tense = self.random.choices(("present", "past", "future"), (60, 25, 15))[0]
        person = subject.person
        if tense == "future":
            aux, rest = [En("will")], [En("be")]
        else:
            be = ("am", "are", "is", "are", "are") if tense == "present" else ("was", "were", "was", "were", "were")
            aux, rest = [En(be[person])], []
        form = {"present": verb.present[person], "past": verb.imperfect(person), "future": verb.future(person)}[tense]
        sources = [*aux, *rest]
        french = [fr(form, *sources)]
        if negative:
            word = En("not")
            french = [fr("ne", word), *french, fr("pas", word)]
            if question:
                rest = [word, *rest]
            else:
                aux = [*aux, word]
        return aux, rest, french, sources

    def copula(self, subject: Phrase, negative: bool, question: bool) -> tuple[list[En], list[En], list[Fr]]:
        aux, rest, french, _ = self.be(subject, negative, question, lex.ETRE)
        draw = self.random.random()
        if draw < 0.12 and subject.kind == "person" and subject.gender == "m":
            masculine = [noun for noun in PROFESSIONS if noun.gender == "m"]
            noun = self.random.choice(masculine)
            article = [] if subject.plural else [En("an" if noun.en[0] in "aeiou" else "a")]
            word = En(noun.en_plural if subject.plural else noun.en)
            return aux, [*rest, *article, word], [*french, fr(noun.fr_plural if subject.plural else noun.fr, word)]
        if draw < 0.35:
            place = self.place()
            return aux, [*rest, *place.en], [*french, *place.fr]
        adjective = self.adjective(subject.kind)
        while adjective.en == "hot" and subject.en[-1].text == "it":
            adjective = self.adjective(subject.kind)
        word = En(adjective.en)
        share = [subject.en[-1]] if subject.en else []
        agreed = fr_main(adjective.french(subject.gender, subject.plural), word, share, 0.2)
        if self.chance(0.25):
            english, degree = self.random.choice((("very", "très"), ("too", "trop"), ("so", "si")))
            intensifier = En(english)
            return aux, [*rest, intensifier, word], [*french, fr(degree, intensifier), agreed]
        return aux, [*rest, word], [*french, agreed]

    def statement(self, antecedent: Phrase | None = None) -> tuple[list[En], list[Fr], Phrase]:
        if self.chance(0.12):
            subject = self.subject(antecedent, ("thing", "clothes", "vehicle", "place", "food", "furniture", "text", "opening"))
            aux, rest, french = self.copula(subject, self.chance(0.2), False)
        else:
            subject = self.subject(antecedent)
            aux, rest, french = self.predicate(subject, False)
        return [*subject.en, *aux, *rest], [*subject.fr, *french], subject

    def joined(self) -> tuple[list[En], list[Fr]]:
        """Two clauses; pronouns of the second take the gender of the first one's subject."""
        english, french, subject = self.statement()
        word, joint = self.random.choice((("and", "et"), ("but", "mais"), ("because", "parce que"), ("when", "quand")))
        link = En(word)
        english2, french2, _ = self.statement(subject)
        return [*english, link, *english2], [*french, *[fr(part, link) for part in joint.split()], *french2]

    def reported(self) -> tuple[list[En], list[Fr]]:
        """I think (that) …, he says (that) …, we know that …"""
        subject = self.subject()
        english, verb = self.random.choice((("think", lex.PENSER), ("say", lex.DIRE), ("know", lex.SAVOIR)))
        main = En(english + "s" if subject.person == 2 else english)
        link = [En("that")] if english == "know" or self.chance(0.7) else []
        english2, french2, _ = self.statement(subject)
        return ([*subject.en, main, *link, *english2],
                [*subject.fr, fr(verb.present[subject.person], main), fr("que", *(link or [main])), *french2])

    def question(self) -> tuple[list[En], list[Fr]]:
        subject = self.subject()
        aux, rest, french = self.predicate(subject, True)
        asked = [fr("est-ce", aux[0]), fr("que", aux[0])]
        if rest and rest[0].text == "not" and self.chance(0.4):
            aux, rest = [*aux, rest[0]], rest[1:]  # "isn't he …", the contraction's order
        return [*aux, *subject.en, *rest], [*asked, *subject.fr, *french]

    def wh_question(self) -> tuple[list[En], list[Fr]]:
        kind = self.random.choice(("what", "whom", "who", "where", "where is", "adverb", "how many", "which"))
        if kind == "who":
            who = En("who")
            subject = Phrase([who], [fr("qui", who)])
            aux, rest, french = self.predicate(subject, False)
            return [who, *aux, *rest], [fr("qui", who), *french]
        if kind == "where is":
            where = En("where")
            noun = self.noun_phrase(self.noun(("person", "animal", "thing", "clothes", "vehicle", "place")),
                                    determiner=self.random.choice(("the", "possessive")), plural=self.chance(0.4))
            be = En("are" if noun.plural else "is")
            return [where, be, *noun.en], [fr("où", where), fr(lex.ETRE.present[4 if noun.plural else 2], be), *noun.fr]
        subject = self.subject()
        if kind in ("where", "adverb"):
            en, french = ("where", "où") if kind == "where" else self.random.choice(
                (("when", "quand"), ("why", "pourquoi"), ("how", "comment")))
            word = En(en)
            if kind == "adverb" and self.chance(0.7):
                aux, rest, group = self.predicate(subject, True)
            else:
                verb = self.random.choice(lex.INTRANSITIVES + lex.MOTIONS)
                aux, rest, group = self.verb_group(subject, verb, self.tense(), False, question=True)
            asked = [fr(french, word), fr("est-ce", aux[0]), fr("que", aux[0])]
            return [word, *aux, *subject.en, *rest], [*asked, *subject.fr, *group]
        verb = self.random.choice([verb for verb in lex.TRANSITIVES if kind != "whom" or "person" in verb.objects])
        asked_en, asked_fr, agreement = self.asked_object(kind, verb)
        aux, rest, group = self.verb_group(subject, verb, self.tense(), self.chance(0.1), question=True,
                                           agreement=agreement)
        if kind == "what":
            link = [fr("que", aux[0])]
        else:
            link = [fr("est-ce", aux[0]), fr("que", aux[0])]
        return [*asked_en, *aux, *subject.en, *rest], [*asked_fr, *link, *subject.fr, *group]

    def asked_object(self, kind: str, verb: Verb) -> tuple[list[En], list[Fr], tuple[str, bool] | None]:
        """what, who(m), how many + noun, which + noun: English, French, agreement of a following participle."""
        if kind == "what":
            word = En("what")
            return [word], [fr("qu'", word), fr("est-ce", word)], None
        if kind == "whom":
            word = En("who")
            return [word], [fr("qui", word)], None
        countable = tuple(k for k in verb.objects if k not in ("mass", "drink")) or ("food",)
        noun = self.noun(countable)
        if kind == "how many":
            english, head = words("how many"), En(noun.en_plural)
            return ([*english, head], [fr("combien", *english), fr_main("de", english[-1], [head], 0.5),
                                       fr(noun.fr_plural, head)], (noun.gender, True))
        which, head = En("which"), En(noun.en)
        return ([which, head], [fr("quel" if noun.gender == "m" else "quelle", which, head), fr(noun.fr, head)],
                (noun.gender, False))

    def there_is(self) -> tuple[list[En], list[Fr], bool]:
        negative, question = self.chance(0.2), self.chance(0.25)
        kinds = ("food", "mass", "drink", "thing", "animal", "person", "clothes", "text", "vehicle")
        noun = self.noun(kinds)
        plural = not noun.mass and self.chance(0.45)
        determiner = self.random.choice(("some",) if noun.mass else ("number", "some", "several", "many") if plural
                                        else ("a",))
        if noun is lex.UNKNOWN_NOUN and plural:
            determiner = "number"
        phrase = self.noun_phrase(noun, negative=negative, question=question, plural=plural, determiner=determiner)
        past = self.chance(0.25)
        there, be = En("there"), En(("were" if plural else "was") if past else "are" if plural else "is")
        place = self.place(self.random.choice(("in", "on", "under", "near", "behind", "in front of", "next to")))
        french = [fr("il", there), *([fr("ne", be)] if negative else []), fr("y", there), fr("avait" if past else "a", be)]
        no = []
        if negative:
            no = [En("not")]
            french[1] = fr("ne", no[0])
            french.append(fr("pas", no[0]))
        if question:
            french = [fr("est-ce", be), fr("que", be), *french]
        opening = [be, there, *no] if question else [there, be, *no]
        return [*opening, *phrase.en, *place.en], [*french, *phrase.fr, *place.fr], question

    def this_is(self) -> tuple[list[En], list[Fr], bool]:
        """ "this is my brother", "c'est mon frère"; "those are not apples", "ce ne sont pas des pommes"."""
        plural, negative = self.chance(0.4), self.chance(0.25)
        subject = En(self.random.choice(("these", "those") if plural else ("this", "that")))
        be = En("are" if plural else "is")
        noun = self.noun(("person", "animal", "food", "thing", "clothes", "vehicle", "text"))
        choices = ("the", "possessive", "number", "bare") if plural else ("a", "a", "the", "possessive", "genitive")
        phrase = self.noun_phrase(noun, determiner=self.random.choice(choices), plural=plural)
        no = [En("not")] if negative else []
        verb = fr("sont" if plural else "est", be)
        french = [fr("ne", no[0]), verb, fr("pas", no[0])] if negative else [verb]
        return ([subject, be, *no, *phrase.en],
                [fr("ce", subject, before_vowel="ce" if negative else "c'"), *french, *phrase.fr], False)

    def idiom(self) -> tuple[list[En], list[Fr], bool]:
        draw = self.random.random()
        if draw < 0.2:
            english, french = self.random.choice(WEATHER)
            phrase = self.fixed(english, french)
            if self.chance(0.3):
                place = self.place("in")
                phrase.en += place.en
                phrase.fr += place.fr
            return phrase.en, phrase.fr, False
        if draw < 0.6:
            subject = self.subject(None, ("person",))
            aux, rest, french, sources = self.be(subject, self.chance(0.15), False, lex.AVOIR)
            number, french_number = self.random.choice(NUMBERS)
            age, years, old = En(number), En("years"), En("old")
            return ([*subject.en, *aux, *rest, age, years, old],
                    [*subject.fr, *french, fr(french_number, age), fr("ans", years)], False)
        name, verb, be = self.name(), lex.IRREGULAR["appeler"], En("is")
        owner, pronoun, clitic, person = self.random.choice(
            (("my", "je", "me", 0), ("your", "vous", "vous", 1), ("his", "il", "se", 2), ("her", "elle", "se", 2)))
        word, noun = En(owner), En("name")
        return ([word, noun, be, *name.en],
                [fr(pronoun, word), fr(clitic, word), fr(verb[person], noun), *name.fr], False)

    def imperative(self) -> tuple[list[En], list[Fr], bool]:
        """ "do not open the door", "n'ouvrez pas la porte"; "let us eat", "mangeons"."""
        subject = Phrase([], [], 1)
        verb = self.random.choice([v for v in lex.TRANSITIVES if not v.stative] + lex.INTRANSITIVES)
        negative = self.chance(0.35)
        phrase = self.objects(verb, negative, False) if verb.objects else Phrase([], [])
        main = En(verb.en)
        english, form = [], verb.fr.present[1]
        if not negative and self.chance(0.25):
            english, form = words("let us"), verb.fr.present[3]
        french = [fr_main(form, main, english, 0.3)]
        if negative:
            do, no = En("do"), En("not")
            english, french = [do, no], [fr("ne", no), *french, fr("pas", no)]
        return [*english, main, *words(" ".join(verb.particle)), *phrase.en], [*french, *phrase.fr], False

    # ------------------------------------------------------------------------------------------------ sentences
    def sentence(self) -> Pair:
        kind = self.random.choices(
            ("statement", "question", "wh", "joined", "reported", "there", "this", "idiom", "imperative"),
            (46, 13, 10, 9, 5, 5, 4, 4, 4))[0]
        asks, exclaims = kind in ("question", "wh"), kind == "imperative"
        if kind == "statement":
            english, french, _ = self.statement()
        elif kind in ("question", "wh", "joined", "reported"):
            make = {"question": self.question, "wh": self.wh_question, "joined": self.joined,
                    "reported": self.reported}[kind]
            english, french = make()
        else:
            english, french, asks = {"there": self.there_is, "this": self.this_is, "idiom": self.idiom,
                                     "imperative": self.imperative}[kind]()
        if self.chance(0.7 if asks else 0.5):
            mark = En("?" if asks else "!" if exclaims and self.chance(0.4) else ".")
            english, french = [*english, mark], [*french, fr(mark.text, mark)]
        return finish(english, french)

    def __iter__(self) -> Iterator[Pair]:
        while True:
            pair = self.sentence()
            if len(pair.source) <= 24:
                yield pair


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


def french_text(target: list[str]) -> str:
    """The words as a reader sees them: "l'" and the word after it together, a space before ? and ! but not before a stop."""
    text = ""
    for word in target:
        glued = not text or text.endswith("'") or word == "."
        text += word if glued else " " + word
    return text


def is_held_out(pair: Pair) -> bool:
    """Decided by the French sentence without its final mark, so every English wording of it falls on the same side."""
    stripped = pair.target[:-1] if pair.target[-1] in ".?!" else pair.target
    return zlib.crc32(" ".join(stripped).encode()) % HELD_OUT_MODULUS == 0


def training_pairs(seed: int, unknown: float = 0.012) -> Iterator[Pair]:
    return (pair for pair in Grammar(seed, unknown) if not is_held_out(pair))


def held_out_pairs(seed: int) -> Iterator[Pair]:
    """Distinct held-out sentences without unknown words; any seed gives sentences no training run has seen."""
    seen = set()
    for pair in Grammar(seed):
        key = tuple(pair.source)
        if is_held_out(pair) and key not in seen:
            seen.add(key)
            yield pair


def main() -> None:
    parser = argparse.ArgumentParser(description="print sentence pairs of the grammar")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alignment", action="store_true")
    options = parser.parse_args()
    for _, pair in zip(range(options.count), Grammar(options.seed), strict=False):
        print(" ".join(pair.source), "\t", french_text(pair.target))
        if options.alignment:
            for word, row in zip(pair.target, pair.alignment, strict=True):
                print(f"    {word:14}", ", ".join(f"{pair.source[i]} {weight:.2f}" for i, weight in row))


if __name__ == "__main__":
    main()
