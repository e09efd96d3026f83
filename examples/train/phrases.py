"""Noun phrases, verb groups and prepositional phrases, drawn at random, with agreement, negation and clitics."""

from __future__ import annotations

import random
from dataclasses import replace

from . import lexicon as lex
from .lexicon import Adjective, Noun, Verb
from .words import (
    CITIES,
    COUNTRIES,
    DAYS,
    DETERMINERS,
    MODALS,
    NAMES,
    NUMBERS,
    PLACES,
    POSSESSIVES,
    PRONOUNS,
    TENSE_WEIGHTS,
    TENSES,
    TIME_OF,
    TIMES,
    En,
    Fr,
    Phrase,
    fr,
    fr_main,
    merge_preposition,
    starts_with_vowel,
    words,
)


class Phrases:
    """Draws phrases. `unknown` is the chance that a noun, adjective or name is one the vocabulary does not have."""

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

    def noun_phrase(
        self,
        noun: Noun,
        *,
        negative: bool = False,
        question: bool = False,
        generic: bool = False,
        plural: bool | None = None,
        determiner: str | None = None,
        plain: bool = False,
    ) -> Phrase:
        """`negative`: object of a negated verb, "une" becomes "de"; `generic`: bare nouns take "le" (verbs of liking)."""
        if plural is None:
            plural = not noun.mass and self.chance(0.38)
        number = "mass" if noun.mass else "plural" if plural else "singular"
        if determiner is None:
            names, weights = DETERMINERS[number]
            determiner = self.random.choices(names.split(), weights)[0]
            if generic and number != "singular" and self.chance(0.25):
                determiner = "bare"  # "I like apples", "cats sleep"
        if (
            noun is lex.UNKNOWN_NOUN
            and plural
            and determiner in ("the", "possessive", "genitive", "some", "bare", "all")
        ):
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
            return Phrase(
                [*owner.en, mark, *english, head], [article, *core, *tail], 2, gender, plural, noun.kind, True
            )
        en_det, fr_det = self.determiner(
            determiner, noun, plural, head, core, bool(before), negative, question, generic
        )
        if determiner == "a" and en_det:
            first = (english or [head])[0].text
            en_det[0].text = "an" if first[0] in "aeiou" and not first.startswith(("uni", "use")) else "a"
        phrase = Phrase(
            [*en_det, *english, head], [*fr_det, *core], 4 if plural else 2, gender, plural, noun.kind, True
        )
        if noun.kind == "person" and not plain and self.chance(0.03):
            self.add_relative(phrase)
        elif (
            noun.kind in ("opening", "furniture", "thing", "place")
            and determiner == "the"
            and not plain
            and self.chance(0.06)
        ):
            of, owner = En("of"), self.owner_place()
            phrase.en += [of, *owner.en]
            phrase.fr += merge_preposition("de", (of,), owner.fr)
        return phrase

    def owner_place(self) -> Phrase:
        if self.chance(0.3):
            return self.name()
        return self.noun_phrase(
            self.noun(("place", "person")),
            determiner=self.random.choice(("the", "possessive")),
            plain=True,
            plural=False,
        )

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

    def determiner(
        self,
        name: str,
        noun: Noun,
        plural: bool,
        head: En,
        core: list[Fr],
        adjective_first: bool,
        negative: bool,
        question: bool,
        generic: bool,
    ) -> tuple[list[En], list[Fr]]:
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
            english = words(
                {"many": self.random.choice(("many", "a lot of")), "much": "a lot of", "little": "a little"}[name]
            )
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
        masculine, feminine_form, plural_form = {
            "the": ("le", "la", "les"),
            "one": ("un", "une", ""),
            "every": ("chaque", "chaque", ""),
        }[name]
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
            return Phrase(
                [*first.en, conjunction, *second.en],
                [*first.fr, fr("et", conjunction), *second.fr],
                4,
                gender,
                True,
                "person",
                True,
            )
        noun = self.noun(kinds)
        phrase = self.noun_phrase(noun, generic=True)
        phrase.person = 4 if phrase.plural else 2
        return phrase

    def pronoun_for(self, antecedent: Phrase) -> Phrase:
        feminine = antecedent.gender == "f"
        if antecedent.plural:
            word = En("they")
            return Phrase(
                [word], [fr("elles" if feminine else "ils", word)], 4, antecedent.gender, True, antecedent.kind
            )
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
            "present": (do, "", verb.en),
            "past": ("did", "", verb.en),
            "progressive": (be, "", verb.ing),
            "perfect": ("has" if third else "have", "", verb.participle),
            "past progressive": (was, "", verb.ing),
            "future": ("will", "", verb.en),
            "going": (be, "going to", verb.en),
            "can": ("can", "", verb.en),
            "must": ("must", "", verb.en),
            "want": (do, "want to", verb.en),
            "would like": ("would", "like to", verb.en),
        }[tense]
        main = En(form)
        return [En(aux)], [*words(middle), main], main

    def usable(self, subject: Phrase, verb: Verb, tense: str, support: bool) -> str:
        """The nearest tense that reads well and is not ambiguous in English ("I read" is always the present)."""
        if verb.stative and tense in ("progressive", "past progressive"):
            return "present" if tense == "progressive" else "future"
        if tense == "past" and not support and verb.past == verb.en:
            return "perfect"
        if tense == "would like" and verb.en in ("like", "want"):
            return "future"
        if tense == "want" and verb.en == "want":
            return "present"
        return tense

    def verb_group(
        self,
        subject: Phrase,
        verb: Verb,
        tense: str,
        negative: bool,
        *,
        question: bool = False,
        adverb: tuple[str, str] | None = None,
        clitics: tuple[Fr, ...] = (),
        agreement: tuple[str, bool] | None = None,
    ) -> tuple[list[En], list[En], list[Fr]]:
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

    def french_verb(
        self,
        subject: Phrase,
        verb: Verb,
        tense: str,
        aux: list[En],
        rest: list[En],
        main: En,
        before: list[Fr],
        after: list[Fr],
        clitics: list[Fr],
        agreement: tuple[str, bool] | None,
    ) -> list[Fr]:
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
            return [
                *before,
                *clitics,
                fr(auxiliary.present[person], *(helpers or [main])),
                *after,
                fr(conjugated.participle_form(*agree), main),
            ]
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
            company = (
                self.name()
                if self.chance(0.3)
                else self.noun_phrase(self.noun(("person",)), determiner=self.random.choice(("the", "possessive")))
            )
            word = En(preposition)
            return Phrase([word, *company.en], [fr(french, word), *company.fr])
        if draw < 0.2 and preposition in (None, "in", "to", "from"):
            return self.town(preposition or "in")
        if draw < 0.32 and preposition in (None, "in", "to", "from"):
            return self.country(preposition or "in")
        if preposition in ("to", "at", "from"):
            word = En(preposition)
            noun = self.noun_phrase(
                self.noun(("place",)), determiner=self.random.choice(("the", "the", "possessive")), plural=False
            )
            return Phrase([word, *noun.en], merge_preposition("de" if preposition == "from" else "à", (word,), noun.fr))
        english, french = (
            self.random.choice(PLACES)
            if preposition is None
            else next(entry for entry in PLACES if entry[0] == preposition)
        )
        kinds = {"in": ("place",), "on": ("furniture",), "under": ("furniture",), "near": ("place", "furniture")}.get(
            english, ("place", "furniture", "opening", "vehicle")
        )
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
        feminine, masculine = ("de", "du") if preposition == "from" else ("en", "au")
        article = feminine if gender == "f" else masculine
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
