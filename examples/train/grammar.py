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
import zlib
from collections.abc import Iterator

from . import lexicon as lex
from .lexicon import FrenchVerb, Verb
from .phrases import Phrases
from .words import (
    CLITICS,
    DATIVES,
    FIXED_QUESTIONS,
    FREQUENCY,
    GREETINGS,
    LANGUAGES,
    MANNER,
    NUMBERS,
    PROFESSIONS,
    STATES,
    WEATHER,
    En,
    Fr,
    Pair,
    Phrase,
    finish,
    fr,
    fr_main,
    french_text,
    merge_preposition,
    words,
)

# professions whose French name is the same for a woman
DOING = lex.Verb("do", "does", "doing", "did", "done", (), lex.FAIRE)
EPICENE = {
    noun.en: "mf" if noun.en in ("teacher", "doctor", "engineer", "writer") else noun.gender for noun in PROFESSIONS
}
HELD_OUT_MODULUS = 25  # one French sentence in 25 is never trained on


class Grammar(Phrases):
    """Draws sentences; iterate over it."""

    def predicate(self, subject: Phrase, question: bool) -> tuple[list[En], list[En], list[Fr]]:
        """Auxiliary words to invert in a question, the rest of the English clause, the French clause after its subject."""
        kind = self.random.choices(
            ("transitive", "intransitive", "motion", "giving", "copula", "state"), (48, 12, 12, 8, 17, 3)
        )[0]
        negative = self.chance(0.22)
        if kind == "state" and subject.kind != "person":
            kind = "copula"
        if kind == "copula":
            return self.copula(subject, negative, question)
        if kind == "state":
            aux, rest, french, _ = self.be(subject, negative, question, lex.AVOIR)
            english, _, state = self.random.choice(STATES).partition("|")
            word = En(english)
            return aux, [*rest, word], [*french, fr(state, word)]
        tense = self.tense()
        adverb = None
        if tense in ("present", "past", "perfect") and self.chance(0.12):
            adverb = self.random.choice(FREQUENCY[:4] if negative or question else FREQUENCY)
            if tense != "present" and not negative and self.chance(0.25):
                adverb = ("already", "déjà")
            negative_object = negative or adverb[0] == "never"
        else:
            negative_object = negative
        make = {
            "transitive": self.transitive,
            "intransitive": self.intransitive,
            "motion": self.motion,
            "giving": self.giving,
        }[kind]
        aux, rest, french = make(subject, tense, negative, question, adverb, negative_object)
        if self.chance(0.16):
            time = self.time(tense)
            rest, french = rest + time.en, french + time.fr
        return aux, rest, french

    def transitive(
        self,
        subject: Phrase,
        tense: str,
        negative: bool,
        question: bool,
        adverb: tuple[str, str] | None,
        negative_object: bool,
    ) -> tuple[list[En], list[En], list[Fr]]:
        if self.chance(0.03):
            return self.wish(subject, negative, question)
        verb = self.random.choice(lex.TRANSITIVES)
        if verb.en != "have" and self.chance(0.13):
            people = "person" in verb.objects
            en, french, gender, plural = self.random.choice(CLITICS if people else (CLITICS[4], CLITICS[6]))
            word = En(en)
            aux, rest, group = self.verb_group(
                subject,
                verb,
                tense,
                negative,
                question=question,
                adverb=adverb,
                clitics=(fr(french, word),),
                agreement=(gender, plural),
            )
            return aux, [*rest, word], group
        aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb)
        phrase = self.objects(verb, negative_object, question)
        rest, group = rest + phrase.en, group + phrase.fr
        if self.chance(0.15):
            place = self.place()
            rest, group = rest + place.en, group + place.fr
        return aux, rest, group

    def wish(self, subject: Phrase, negative: bool, question: bool) -> tuple[list[En], list[En], list[Fr]]:
        """ "I would like a coffee", "je voudrais un café"."""
        would, like = En("would"), En("like")
        thing = self.noun_phrase(
            self.noun(("food", "mass", "drink", "thing", "clothes", "text")), negative=negative, question=question
        )
        french = [fr(lex.VOULOIR.future_stem + lex.IMPERFECT[subject.person], would, like)]
        no = [En("not")] if negative else []
        if negative:
            french = [fr("ne", no[0]), *french, fr("pas", no[0])]
        if question:
            return [would], [*no, like, *thing.en], [*french, *thing.fr]
        return [would, *no], [like, *thing.en], [*french, *thing.fr]

    def intransitive(
        self, subject: Phrase, tense: str, negative: bool, question: bool, adverb: tuple[str, str] | None, _: bool
    ) -> tuple[list[En], list[En], list[Fr]]:
        verb = self.random.choice(lex.INTRANSITIVES)
        aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb)
        if verb.en == "speak" and self.chance(0.4):
            en, french, *_ = self.random.choice(LANGUAGES)
            language = En(en)
            return aux, [*rest, language], [*group, fr(french, language)]
        draw = self.random.random()
        if draw < 0.6:
            extra = self.place() if draw < 0.35 else self.fixed(*self.random.choice(MANNER).split("|"))
            rest, group = rest + extra.en, group + extra.fr
        return aux, rest, group

    def motion(
        self, subject: Phrase, tense: str, negative: bool, question: bool, adverb: tuple[str, str] | None, _: bool
    ) -> tuple[list[En], list[En], list[Fr]]:
        verb = self.random.choice(lex.MOTIONS)
        aux, rest, group = self.verb_group(subject, verb, tense, negative, question=question, adverb=adverb)
        if verb.en == "go" and self.chance(0.12):
            home = En("home")
            return aux, [*rest, home], [*group, fr("à", home), fr("la", home), fr("maison", home)]
        if verb.objects and (verb.en in ("live", "go") or self.chance(0.8)):
            place = self.place(self.random.choice(verb.objects))
            rest, group = rest + place.en, group + place.fr
        return aux, rest, group

    def giving(
        self,
        subject: Phrase,
        tense: str,
        negative: bool,
        question: bool,
        adverb: tuple[str, str] | None,
        negative_object: bool,
    ) -> tuple[list[En], list[En], list[Fr]]:
        """ "I give him a book", "I give a book to Paul", "I give it to Paul"."""
        verb = self.random.choice(lex.GIVINGS)
        thing = self.noun_phrase(self.noun(verb.objects), negative=negative_object, question=question)
        if self.chance(0.5):
            en, french = self.random.choice(DATIVES)
            word = En(en)
            aux, rest, group = self.verb_group(
                subject, verb, tense, negative, question=question, adverb=adverb, clitics=(fr(french, word),)
            )
            return aux, [*rest, word, *thing.en], [*group, *thing.fr]
        to = En("to")
        receiver = (
            self.name()
            if self.chance(0.5)
            else self.noun_phrase(
                self.noun(("person",)), determiner=self.random.choice(("the", "possessive")), plain=True
            )
        )
        clitics: tuple[Fr, ...] = ()
        agreement = None
        if self.chance(0.2):
            word = En("it")
            thing, clitics, agreement = Phrase([word], []), (fr("le", word),), ("m", False)
        aux, rest, group = self.verb_group(
            subject, verb, tense, negative, question=question, adverb=adverb, clitics=clitics, agreement=agreement
        )
        return (
            aux,
            [*rest, *thing.en, to, *receiver.en],
            [*group, *thing.fr, *merge_preposition("à", (to,), receiver.fr)],
        )

    def be(
        self, subject: Phrase, negative: bool, question: bool, verb: FrenchVerb
    ) -> tuple[list[En], list[En], list[Fr], list[En]]:
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
        if draw < 0.12 and subject.kind == "person":
            noun = self.random.choice(
                [noun for noun in PROFESSIONS if subject.gender in (noun.gender, *EPICENE[noun.en])]
            )
            article = [] if subject.plural else [En("an" if noun.en[0] in "aeiou" else "a")]
            word = En(noun.en_plural if subject.plural else noun.en)
            return aux, [*rest, *article, word], [*french, fr(noun.fr_plural if subject.plural else noun.fr, word)]
        if draw < 0.35:
            place = self.place()
            return aux, [*rest, *place.en], [*french, *place.fr]
        adjective = self.adjective(subject.kind)
        while adjective.en in ("hot", "cold") and subject.en[-1].text == "it":  # the weather, not a thing
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
            subject = self.subject(
                antecedent, ("thing", "clothes", "vehicle", "place", "food", "furniture", "text", "opening")
            )
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
        joints = [fr(part, link) for part in joint.split()]
        if word == "when" and self.chance(0.4):
            comma = [En(",")] if self.chance(0.6) else []
            return [link, *english, *comma, *english2], [*joints, *french, *[fr(",", c) for c in comma], *french2]
        return [*english, link, *english2], [*french, *joints, *french2]

    def reported(self) -> tuple[list[En], list[Fr]]:
        """I think (that) …, he says (that) …, we know that …"""
        subject = self.subject()
        english, verb = self.random.choice((("think", lex.PENSER), ("say", lex.DIRE), ("know", lex.SAVOIR)))
        main = En(english + "s" if subject.person == 2 else english)
        link = [En("that")] if english == "know" or self.chance(0.7) else []
        english2, french2, _ = self.statement(subject)
        return (
            [*subject.en, main, *link, *english2],
            [*subject.fr, fr(verb.present[subject.person], main), fr("que", *(link or [main])), *french2],
        )

    def question(self) -> tuple[list[En], list[Fr]]:
        subject = self.subject()
        aux, rest, french = self.predicate(subject, True)
        asked = [fr("est-ce", aux[0]), fr("que", aux[0])]
        if rest and rest[0].text == "not" and self.chance(0.4):
            aux, rest = [*aux, rest[0]], rest[1:]  # "isn't he …", the contraction's order
        return [*aux, *subject.en, *rest], [*asked, *subject.fr, *french]

    def wh_question(self) -> tuple[list[En], list[Fr]]:
        kind = self.random.choice(
            ("what", "doing", "whom", "who", "who is", "where", "where is", "adverb", "how many", "which")
        )
        if kind == "who is":
            return self.who_is()
        if kind == "who":
            who = En("who")
            subject = Phrase([who], [fr("qui", who)])
            aux, rest, french = self.predicate(subject, False)
            return [who, *aux, *rest], [fr("qui", who), *french]
        if kind == "where is":
            where = En("where")
            noun = self.noun_phrase(
                self.noun(("person", "animal", "thing", "clothes", "vehicle", "place")),
                determiner=self.random.choice(("the", "possessive")),
                plural=self.chance(0.4),
            )
            be = En("are" if noun.plural else "is")
            return [where, be, *noun.en], [fr("où", where), fr(lex.ETRE.present[4 if noun.plural else 2], be), *noun.fr]
        subject = self.subject()
        if kind in ("where", "adverb"):
            en, french = (
                ("where", "où")
                if kind == "where"
                else self.random.choice((("when", "quand"), ("why", "pourquoi"), ("how", "comment")))
            )
            word = En(en)
            if kind == "adverb" and self.chance(0.7):
                aux, rest, group = self.predicate(subject, True)
            else:
                verb = self.random.choice(lex.INTRANSITIVES + lex.MOTIONS)
                aux, rest, group = self.verb_group(subject, verb, self.tense(), False, question=True)
            asked = [fr(french, word), fr("est-ce", aux[0]), fr("que", aux[0])]
            return [word, *aux, *subject.en, *rest], [*asked, *subject.fr, *group]
        if kind == "doing":
            what = En("what")
            aux, rest, group = self.verb_group(subject, DOING, self.tense(), self.chance(0.1), question=True)
            asked = [fr("qu'", what), fr("est-ce", what), fr("que", aux[0])]
            return [what, *aux, *subject.en, *rest], [*asked, *subject.fr, *group]
        verb = self.random.choice([verb for verb in lex.TRANSITIVES if kind != "whom" or "person" in verb.objects])
        asked_en, asked_fr, agreement = self.asked_object(kind, verb)
        aux, rest, group = self.verb_group(
            subject, verb, self.tense(), self.chance(0.1), question=True, agreement=agreement
        )
        link = [*([] if kind == "what" else [fr("est-ce", aux[0])]), fr("que", aux[0])]
        return [*asked_en, *aux, *subject.en, *rest], [*asked_fr, *link, *subject.fr, *group]

    def who_is(self) -> tuple[list[En], list[Fr]]:
        """ "who is your brother", and set phrases: "who is he", "how are you", "what is this"."""
        if self.chance(0.7):
            phrase = self.fixed(*self.random.choice(FIXED_QUESTIONS).split("|"))
            return phrase.en, phrase.fr
        who = En("who")
        person = (
            self.name()
            if self.chance(0.3)
            else self.noun_phrase(
                self.noun(("person",)), determiner=self.random.choice(("the", "possessive", "this")), plural=False
            )
        )
        be = En("is")
        return [who, be, *person.en], [fr("qui", who), fr("est", be), *person.fr]

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
            return (
                [*english, head],
                [fr("combien", *english), fr_main("de", english[-1], [head], 0.5), fr(noun.fr_plural, head)],
                (noun.gender, True),
            )
        which, head = En("which"), En(noun.en)
        return (
            [which, head],
            [fr("quel" if noun.gender == "m" else "quelle", which, head), fr(noun.fr, head)],
            (noun.gender, False),
        )

    def there_is(self) -> tuple[list[En], list[Fr], bool]:
        negative, question = self.chance(0.2), self.chance(0.25)
        kinds = ("food", "mass", "drink", "thing", "animal", "person", "clothes", "text", "vehicle")
        noun = self.noun(kinds)
        plural = not noun.mass and self.chance(0.45)
        determiner = self.random.choice(
            ("some",) if noun.mass else ("number", "some", "several", "many") if plural else ("a",)
        )
        if noun is lex.UNKNOWN_NOUN and plural:
            determiner = "number"
        phrase = self.noun_phrase(noun, negative=negative, question=question, plural=plural, determiner=determiner)
        past = self.chance(0.25)
        there, be = En("there"), En(("were" if plural else "was") if past else "are" if plural else "is")
        place = self.place(self.random.choice(("in", "on", "under", "near", "behind", "in front of", "next to")))
        french = [
            fr("il", there),
            *([fr("ne", be)] if negative else []),
            fr("y", there),
            fr("avait" if past else "a", be),
        ]
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
        subject = En(self.random.choice(("these", "those") if plural else ("this", "that", "it")))
        be = En("are" if plural else "is")
        noun = self.noun(("person", "animal", "food", "thing", "clothes", "vehicle", "text"))
        choices = ("the", "possessive", "number", "bare") if plural else ("a", "a", "the", "possessive", "genitive")
        phrase = self.noun_phrase(noun, determiner=self.random.choice(choices), plural=plural)
        no = [En("not")] if negative else []
        verb = fr("sont" if plural else "est", be)
        french = [fr("ne", no[0]), verb, fr("pas", no[0])] if negative else [verb]
        if not negative and self.chance(0.25):
            asked = [fr("est-ce", be), fr("que", be)]
            subject_fr = fr("ce", subject, before_vowel="c'")
            return [be, subject, *phrase.en], [*asked, subject_fr, *french, *phrase.fr], True
        subject_fr = fr("ce", subject, before_vowel="ce" if negative else "c'")
        return [subject, be, *no, *phrase.en], [subject_fr, *french, *phrase.fr], False

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
            aux, rest, french, _ = self.be(subject, self.chance(0.15), False, lex.AVOIR)
            number, french_number = self.random.choice(NUMBERS)
            age, years, old = En(number), En("years"), En("old")
            return (
                [*subject.en, *aux, *rest, age, years, old],
                [*subject.fr, *french, fr(french_number, age), fr("ans", years)],
                False,
            )
        name, verb, be = self.name(), lex.IRREGULAR["appeler"], En("is")
        owner, pronoun, clitic, person = self.random.choice(
            (("my", "je", "me", 0), ("your", "vous", "vous", 1), ("his", "il", "se", 2), ("her", "elle", "se", 2))
        )
        word, noun = En(owner), En("name")
        return (
            [word, noun, be, *name.en],
            [fr(pronoun, word), fr(clitic, word), fr(verb[person], noun), *name.fr],
            False,
        )

    def imperative(self) -> tuple[list[En], list[Fr], bool]:
        """ "do not open the door", "n'ouvrez pas la porte"; "let us eat", "mangeons"."""
        if self.chance(0.15):
            return self.command_to_give()
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

    def command_to_give(self) -> tuple[list[En], list[Fr], bool]:
        """ "give me the book", "donnez-moi le livre"; "do not give me the book", "ne me donnez pas le livre"."""
        verb, negative = self.random.choice(lex.GIVINGS), self.chance(0.25)
        en, french = self.random.choice([dative for dative in DATIVES if dative[0] != "you"])
        thing = self.noun_phrase(self.noun(verb.objects), negative=negative)
        main, receiver = En(verb.en), En(en)
        form = fr(verb.fr.present[1], main)
        if not negative:
            after = fr("-moi" if french == "me" else "-" + french, receiver)
            return [main, receiver, *thing.en], [form, after, *thing.fr], False
        do, no = En("do"), En("not")
        group = [fr("ne", no), fr(french, receiver), form, fr("pas", no)]
        return [do, no, main, receiver, *thing.en], [*group, *thing.fr], False

    def fragment(self) -> tuple[list[En], list[Fr], bool]:
        """A noun phrase alone, a word alone, a greeting."""
        draw = self.random.random()
        if draw < 0.25:
            phrase = self.fixed(*self.random.choice(GREETINGS).split("|"))
            if self.chance(0.5):
                name, comma = self.name(), [En(",")] if self.chance(0.3) else []
                return [*phrase.en, *comma, *name.en], [*phrase.fr, *[fr(",", c) for c in comma], *name.fr], False
            return phrase.en, phrase.fr, False
        noun = self.noun(tuple(lex.NOUN_KINDS))
        if draw < 0.35 and not noun.mass:
            word = En(noun.en)
            return [word], [fr(noun.fr, word)], False
        phrase = self.noun_phrase(noun)
        return phrase.en, phrase.fr, False

    # ------------------------------------------------------------------------------------------------ sentences
    def sentence(self) -> Pair:
        kind = self.random.choices(
            ("statement", "question", "wh", "joined", "reported", "there", "this", "idiom", "imperative", "fragment"),
            (44, 12, 11, 9, 5, 4, 5, 4, 5, 2),
        )[0]
        asks, exclaims = kind in ("question", "wh"), kind in ("imperative", "fragment")
        if kind == "statement":
            english, french, _ = self.statement()
        elif kind in ("question", "wh", "joined", "reported"):
            make = {
                "question": self.question,
                "wh": self.wh_question,
                "joined": self.joined,
                "reported": self.reported,
            }[kind]
            english, french = make()
        else:
            english, french, asks = {
                "there": self.there_is,
                "this": self.this_is,
                "idiom": self.idiom,
                "imperative": self.imperative,
                "fragment": self.fragment,
            }[kind]()
        if kind == "statement" and self.chance(0.03):
            answer, french_answer = self.random.choice((("yes", "oui"), ("no", "non")))
            word, comma = En(answer), En(",")
            english, french = [word, comma, *english], [fr(french_answer, word), fr(",", comma), *french]
        elif kind in ("question", "imperative") and self.chance(0.08):
            comma, please = [En(",")] if self.chance(0.5) else [], En("please")
            english = [*english, *comma, please]
            polite = [fr(word, please) for word in ("s'", "il", "vous", "plaît")]
            french = [*french, *[fr(",", c) for c in comma], *polite]
        if self.chance(0.7 if asks else 0.5):
            mark = En("?" if asks else "!" if exclaims and self.chance(0.4) else ".")
            english, french = [*english, mark], [*french, fr(mark.text, mark)]
        return finish(english, french)

    def __iter__(self) -> Iterator[Pair]:
        while True:
            pair = self.sentence()
            if len(pair.source) <= 24:
                yield pair


def is_held_out(pair: Pair) -> bool:
    """Decided by the French sentence without its final mark, so every English wording of it falls on the same side."""
    stripped = pair.target[:-1] if pair.target[-1] in ".?!" else pair.target
    return zlib.crc32(" ".join(stripped).encode()) % HELD_OUT_MODULUS == 0


def training_pairs(seed: int, unknown: float = 0.03) -> Iterator[Pair]:
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
