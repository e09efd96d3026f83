"""The words of the English–French grammar: nouns, adjectives, verbs, names, numbers.

Every table is text, one entry per line or comma, so that adding a word is adding an entry. Regular forms are made by
the rules below; only what is irregular is written out. French persons are numbered 0 je, 1 vous, 2 il/elle, 3 nous,
4 ils/elles: English "you" is always the polite French "vous", so "tu" does not occur.
"""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = "<unk>"


@dataclass(frozen=True, slots=True)
class Noun:
    en: str
    en_plural: str
    fr: str
    fr_plural: str
    gender: str  # "m" | "f"
    kind: str
    mass: bool = False


@dataclass(frozen=True, slots=True)
class Adjective:
    en: str
    forms: tuple[str, str, str, str]  # masculine, feminine, masculine plural, feminine plural
    before_vowel: str | None  # "bel", "nouvel", "vieil"
    before_noun: bool
    kinds: str  # p people and animals, t things, b both

    def french(self, gender: str, plural: bool) -> str:
        return self.forms[(gender == "f") + 2 * plural]


@dataclass(frozen=True, slots=True)
class Verb:
    """One sense of an English verb; `particle` is what follows it ("look for"), `objects` what may be its object."""

    en: str
    third: str
    ing: str
    past: str
    participle: str
    particle: tuple[str, ...]
    fr: FrenchVerb
    objects: tuple[str, ...] = ()
    stative: bool = False  # no progressive
    imperfect: bool = False  # simple past is the French imparfait
    generic: bool = False  # bare nouns take the definite article: j'aime l'eau


@dataclass(frozen=True, slots=True)
class FrenchVerb:
    infinitive: str
    present: tuple[str, ...]  # five persons
    imperfect_stem: str
    future_stem: str
    participle: str
    with_etre: bool = False

    def imperfect(self, person: int) -> str:
        stem = self.imperfect_stem
        if person in (1, 3) and self.infinitive.endswith(("ger", "cer")):  # mangeais but mangions, mangiez
            stem = self.infinitive[:-2]
        return stem + IMPERFECT[person]

    def future(self, person: int) -> str:
        return self.future_stem + FUTURE[person]

    def participle_form(self, gender: str, plural: bool) -> str:
        plural_s = "s" if plural and not (gender == "m" and self.participle.endswith("s")) else ""
        return self.participle + ("e" if gender == "f" else "") + plural_s


IMPERFECT = ("ais", "iez", "ait", "ions", "aient")
FUTURE = ("ai", "ez", "a", "ons", "ont")


# ---------------------------------------------------------------------------------------------------------- nouns
# kind: english[/plural] french[/plural] gender, ...      a kind starting with "-" holds mass nouns
NOUNS = """
food: apple pomme f, orange orange f, banana banane f, pear poire f, egg œuf m, cake gâteau/gâteaux m,
 tomato/tomatoes tomate f, carrot carotte f, onion oignon m, lemon citron m, strawberry fraise f, cherry cerise f,
 peach pêche f, sandwich sandwich m, pizza pizza f, croissant croissant m, cookie biscuit m, mushroom champignon m,
 bean haricot m, melon melon m, salad salade f, sausage saucisse f, omelette omelette f, pancake crêpe f, pie tarte f,
 apricot abricot m, pineapple ananas/ananas m
-mass: bread pain m, butter beurre m, cheese fromage m, meat viande f, rice riz m, soup soupe f, sugar sucre m,
 salt sel m, jam confiture f, honey miel m, ham jambon m, chocolate chocolat m, flour farine f, garlic ail m,
 oil huile f, cream crème f
-drink: water eau f, milk lait m, coffee café m, tea thé m, wine vin m, beer bière f, juice jus m,
 lemonade limonade f, cider cidre m
text: book livre m, letter lettre f, newspaper journal/journaux m, magazine magazine m, novel roman m, poem poème m,
 story histoire f, article article m, message message m
song: song chanson f, tune air m
thing: key clé f, bag sac m, box boîte f, pen stylo m, pencil crayon m, cup tasse f, glass verre m, bottle bouteille f,
 plate assiette f, knife/knives couteau/couteaux m, fork fourchette f, spoon cuillère f, phone téléphone m,
 computer ordinateur m, lamp lampe f, clock horloge f, mirror miroir m, umbrella parapluie m, ball ballon m,
 toy jouet m, doll poupée f, guitar guitare f, piano piano m, picture image f, ticket billet m, flower fleur f,
 gift cadeau/cadeaux m, map carte f, basket panier m, ring bague f, candle bougie f, blanket couverture f
furniture: table table f, chair chaise f, bed lit m, desk bureau/bureaux m, armchair fauteuil m, cupboard armoire f
clothes: shirt chemise f, dress robe f, coat manteau/manteaux m, hat chapeau/chapeaux m, shoe chaussure f,
 skirt jupe f, sweater pull m, tie cravate f, jacket veste f, scarf/scarves écharpe f, glove gant m,
 sock chaussette f, boot botte f
vehicle: car voiture f, bike vélo m, bus bus/bus m, train train m, boat bateau/bateaux m, plane avion m,
 truck camion m, taxi taxi m, motorcycle moto f
person: man/men homme m, woman/women femme f, boy garçon m, girl fille f, child/children enfant m, friend ami m,
 teacher professeur m, doctor médecin m, student étudiant m, neighbor voisin m, brother frère m, sister sœur f,
 father père m, mother mère f, uncle oncle m, aunt tante f, son fils/fils m, daughter fille f, husband mari m,
 wife/wives femme f, cousin cousin m, grandmother grand-mère/grands-mères f, grandfather grand-père/grands-pères m,
 king roi m, queen reine f, singer chanteur m, baker boulanger m, farmer fermier m, actor acteur m,
 actress actrice f, nurse infirmière f, lawyer avocat m, engineer ingénieur m, waiter serveur m, writer écrivain m,
 painter peintre m, soldier soldat m, baby bébé m
animal: cat chat m, dog chien m, horse cheval/chevaux m, bird oiseau/oiseaux m, cow vache f, rabbit lapin m,
 mouse/mice souris/souris f, duck canard m, pig cochon m, lion lion m, tiger tigre m, bear ours/ours m,
 elephant éléphant m, monkey singe m, wolf/wolves loup m, fox renard m, frog grenouille f, bee abeille f,
 snake serpent m, goat chèvre f
place: house maison f, garden jardin m, kitchen cuisine f, bedroom chambre f, school école f, church église f,
 park parc m, market marché m, station gare f, hospital hôpital/hôpitaux m, hotel hôtel m, restaurant restaurant m,
 shop magasin m, library bibliothèque f, museum musée m, street rue f, city ville f, village village m,
 forest forêt f, beach plage f, mountain montagne f, river rivière f, lake lac m, bridge pont m, island île f,
 castle château/châteaux m, farm ferme f, theater théâtre m, cinema cinéma m, university université f,
 bakery boulangerie f, pharmacy pharmacie f, tree arbre m, garage garage m, office bureau/bureaux m, airport aéroport m
opening: door porte f, window fenêtre f, gate portail m, drawer tiroir m
"""

# ------------------------------------------------------------------------------------------------------ adjectives
# english masculine[/feminine[/masculine plural[/before a vowel]]] kinds
AFTER_NOUN = """
red rouge t, cold froid t, blue bleu t, green vert t, black noir t, white blanc/blanche t, yellow jaune t, gray gris/grise t,
round rond t, hot chaud t, expensive cher/chère t, easy facile e, difficult difficile e, interesting intéressant b,
strong fort p, weak faible p, rich riche p, poor pauvre p, tired fatigué p, happy heureux/heureuse p, sad triste p,
sick malade p, clean propre b, dirty sale b, heavy lourd t, light léger/légère t, empty vide t, full plein t,
famous célèbre b, quiet calme p, fast rapide b, slow lent b, dangerous dangereux/dangereuse b, modern moderne t,
soft doux/douce t, dry sec/sèche t, wet mouillé b, strange étrange b, important important b, useful utile t,
french français b, english anglais b, italian italien/italienne b, german allemand b, spanish espagnol b,
american américain b, intelligent intelligent p, kind gentil/gentille p, funny drôle b, fresh frais/fraîche t,
thin mince p, serious sérieux/sérieuse p, perfect parfait b, magnificent magnifique b, ready prêt p,
worried inquiet/inquiète p, free libre p
"""
BEFORE_NOUN = """
big grand b, small petit b, good bon/bonne b, bad mauvais b, beautiful beau/belle/beaux/bel b,
old vieux/vieille/vieux/vieil b, new nouveau/nouvelle/nouveaux/nouvel b, young jeune p, long long/longue t,
pretty joli b, fat gros/grosse p
"""

# ----------------------------------------------------------------------------------------------------------- verbs
# french irregular: infinitive je vous il nous ils imparfait-stem future-stem participle
FRENCH_IRREGULAR = """
être suis êtes est sommes sont ét ser été
avoir ai avez a avons ont av aur eu
aller vais allez va allons vont all ir allé
pouvoir peux pouvez peut pouvons peuvent pouv pourr pu
devoir dois devez doit devons doivent dev devr dû
vouloir veux voulez veut voulons veulent voul voudr voulu
savoir sais savez sait savons savent sav saur su
faire fais faites fait faisons font fais fer fait
boire bois buvez boit buvons boivent buv boir bu
voir vois voyez voit voyons voient voy verr vu
prendre prends prenez prend prenons prennent pren prendr pris
apprendre apprends apprenez apprend apprenons apprennent appren apprendr appris
comprendre comprends comprenez comprend comprenons comprennent compren comprendr compris
lire lis lisez lit lisons lisent lis lir lu
écrire écris écrivez écrit écrivons écrivent écriv écrir écrit
ouvrir ouvre ouvrez ouvre ouvrons ouvrent ouvr ouvrir ouvert
offrir offre offrez offre offrons offrent offr offrir offert
connaître connais connaissez connaît connaissons connaissent connaiss connaîtr connu
conduire conduis conduisez conduit conduisons conduisent conduis conduir conduit
construire construis construisez construit construisons construisent construis construir construit
peindre peins peignez peint peignons peignent peign peindr peint
suivre suis suivez suit suivons suivent suiv suivr suivi
recevoir reçois recevez reçoit recevons reçoivent recev recevr reçu
dormir dors dormez dort dormons dorment dorm dormir dormi
courir cours courez court courons courent cour courr couru
rire ris riez rit rions rient ri rir ri
sourire souris souriez sourit sourions sourient souri sourir souri
venir viens venez vient venons viennent ven viendr venu
revenir reviens revenez revient revenons reviennent reven reviendr revenu
partir pars partez part partons partent part partir parti
sortir sors sortez sort sortons sortent sort sortir sorti
dire dis dites dit disons disent dis dir dit
mettre mets mettez met mettons mettent mett mettr mis
appeler appelle appelez appelle appelons appellent appel appeller appelé
jeter jette jetez jette jetons jettent jet jetter jeté
acheter achète achetez achète achetons achètent achet achèter acheté
préférer préfère préférez préfère préférons préfèrent préfér préférer préféré
nettoyer nettoie nettoyez nettoie nettoyons nettoient nettoy nettoier nettoyé
envoyer envoie envoyez envoie envoyons envoient envoy enverr envoyé
"""
WITH_ETRE = frozenset(
    ["aller", "venir", "revenir", "partir", "sortir", "arriver", "rester", "tomber", "entrer", "rentrer"]
)

# english[+particle] [past participle-of-the-past [ing]] = french [! flags] : object kinds
# flags: s stative (no progressive), i simple past is imparfait, g bare nouns are generic
TRANSITIVE = """
eat ate eaten = manger : food mass
drink drank drunk = boire : drink
prepare = préparer : food mass
buy bought bought = acheter : food mass drink text thing furniture clothes vehicle
sell sold sold = vendre : food mass drink text thing furniture clothes vehicle
want = vouloir si : thing food mass drink clothes text vehicle
see saw seen = voir s : person animal thing vehicle place furniture clothes
look+for = chercher : person animal thing text clothes place
find found found = trouver : person animal thing text clothes place
lose lost lost = perdre : thing clothes text animal
take took taken = prendre : thing food vehicle text clothes mass drink
read read read = lire : text
write wrote written writing = écrire : text
wear wore worn = porter : clothes
wash = laver : clothes vehicle thing animal opening
open = ouvrir : opening thing text
close = fermer : opening
break broke broken = casser : thing furniture
hide hid hidden = cacher : thing food clothes text
forget forgot forgotten forgetting = oublier s : thing clothes text person
have had had = avoir sig- : thing animal vehicle clothes text food mass drink furniture
love = aimer sig : person animal food mass drink text place song
like = aimer sig : person animal food mass drink text place song clothes
hate = détester sig : person animal food mass drink text place song clothes
prefer preferred preferred preferring = préférer sig : food mass drink animal text clothes place
know knew known = connaître si : person place song
meet met met = rencontrer : person animal
visit = visiter : place
help = aider : person
call = appeler : person
wait+for = attendre : person vehicle
listen+to = écouter : person song
watch = regarder : person animal picture vehicle
choose chose chosen = choisir : thing clothes food text vehicle
sing sang sung = chanter : song
learn = apprendre : song text
understand understood understood = comprendre s : person text
drive drove driven = conduire : vehicle
paint = peindre : animal place furniture opening person
draw drew drawn = dessiner : animal place thing person vehicle
repair = réparer : vehicle thing furniture opening
clean = nettoyer : place opening furniture
count = compter : thing animal food
follow = suivre : person animal vehicle
invite = inviter : person
hear heard heard = entendre s : person animal vehicle song
rent = louer : vehicle place
build built built = construire : place furniture vehicle
receive = recevoir : text thing
cut cut cut cutting = couper : food mass
finish = finir : text song
use = utiliser : thing vehicle
throw threw thrown = jeter : thing food clothes
push = pousser : furniture person vehicle opening
touch = toucher : thing animal person
borrow = emprunter : thing text vehicle
"""
INTRANSITIVE = """
sleep slept slept = dormir
work = travailler
walk = marcher
run ran run running = courir
dance = danser
swim swam swum swimming = nager
cry = pleurer
laugh = rire
smile = sourire
speak spoke spoken = parler
travel = voyager
play = jouer
dream = rêver
study = étudier
smoke = fumer
sing sang sung = chanter
"""
MOTION = """
go went gone = aller : to
come came come = venir : to from
return = revenir : to from
arrive = arriver : at
leave left left = partir :
stay = rester : at in
fall fell fallen = tomber : in
live = habiter i : in near
"""
GIVING = """
give gave given = donner : thing text clothes food
show showed shown = montrer : thing text picture animal vehicle
send sent sent = envoyer : text thing
bring brought brought = apporter : thing food clothes text
lend lent lent = prêter : thing text vehicle clothes
offer = offrir : thing clothes food
"""

NAMES_M = (
    "paul Paul, peter Pierre, john Jean, james Jacques, mark Marc, luke Luc, henry Henri, thomas Thomas, "
    "andrew André, philip Philippe, charles Charles, antoine Antoine, victor Victor, simon Simon"
)
NAMES_F = (
    "mary Marie, julia Julie, sophie Sophie, alice Alice, claire Claire, anna Anne, emma Emma, louise Louise, "
    "helen Hélène, catherine Catherine, martha Marthe, lucy Lucie, rose Rose, jane Jeanne"
)
CITIES = (
    "paris Paris, london Londres, rome Rome, berlin Berlin, madrid Madrid, lyon Lyon, geneva Genève, "
    "brussels Bruxelles, athens Athènes, vienna Vienne, moscow Moscou, lisbon Lisbonne"
)
COUNTRIES = (
    "france France f, italy Italie f, spain Espagne f, germany Allemagne f, belgium Belgique f, "
    "england Angleterre f, switzerland Suisse f, canada Canada m, japan Japon m, portugal Portugal m, brazil Brésil m"
)
NUMBERS = (
    "two deux, three trois, four quatre, five cinq, six six, seven sept, eight huit, nine neuf, ten dix, "
    "eleven onze, twelve douze, thirteen treize, fourteen quatorze, fifteen quinze, sixteen seize, twenty vingt, "
    "thirty trente, forty quarante, fifty cinquante"
)
LANGUAGES = "french français, english anglais, italian italien, german allemand, spanish espagnol"
DAYS = (
    "monday lundi, tuesday mardi, wednesday mercredi, thursday jeudi, friday vendredi, saturday samedi, sunday dimanche"
)
# words that begin with a vowel or an h and still do not elide
NO_ELISION = frozenset(["haricot", "haricots", "huit", "onze"])


def pairs(table: str) -> list[tuple[str, ...]]:
    return [tuple(entry.split()) for entry in table.split(",")]


# ----------------------------------------------------------------------------------------------- making the forms
def english_plural(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def english_ing(word: str) -> str:
    return (word[:-1] if word.endswith("e") and not word.endswith("ee") else word) + "ing"


def english_past(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ied"
    return word + ("d" if word.endswith("e") else "ed")


def french_verb(infinitive: str, irregular: dict[str, list[str]]) -> FrenchVerb:
    """Conjugate: from the table where irregular, else by the -er, -ir (finir) and -re (vendre) patterns."""
    etre = infinitive in WITH_ETRE
    if infinitive in irregular:
        *present, imperfect, future, participle = irregular[infinitive]
        return FrenchVerb(infinitive, tuple(present), imperfect, future, participle, etre)
    stem, ending = infinitive[:-2], infinitive[-2:]
    if ending == "er":
        soft = {"g": stem + "e", "c": stem[:-1] + "ç"}.get(stem[-1], stem)  # mangeons, commençons
        present = [stem + "e", stem + "ez", stem + "e", soft + "ons", stem + "ent"]
        return FrenchVerb(infinitive, tuple(present), soft, infinitive, stem + "é", etre)
    if ending == "ir":
        present = [stem + "is", stem + "issez", stem + "it", stem + "issons", stem + "issent"]
        return FrenchVerb(infinitive, tuple(present), stem + "iss", infinitive, stem + "i", etre)
    present = [stem + "s", stem + "ez", stem, stem + "ons", stem + "ent"]
    return FrenchVerb(infinitive, tuple(present), stem, infinitive[:-1], stem + "u", etre)


def make_nouns() -> dict[str, list[Noun]]:
    kinds: dict[str, list[Noun]] = {}
    for block in NOUNS.strip().replace("\n ", " ").split("\n"):
        kind, entries = block.split(":")
        mass, kind = kind.startswith("-"), kind.lstrip("-")
        for en, fr, gender in pairs(entries):
            en, _, en_plural = en.partition("/")
            fr, _, fr_plural = fr.partition("/")
            noun = Noun(en, en_plural or english_plural(en), fr, fr_plural or fr + "s", gender, kind, mass)
            kinds.setdefault(kind, []).append(noun)
    kinds["picture"] = [noun for noun in kinds["thing"] if noun.en in ("picture", "map", "flower", "candle", "clock")]
    return kinds


def make_adjectives() -> list[Adjective]:
    adjectives = []
    for table, before in ((AFTER_NOUN, False), (BEFORE_NOUN, True)):
        for en, fr, kinds in pairs(table.replace("\n", " ")):
            parts = fr.split("/")
            masculine = parts[0]
            feminine = parts[1] if len(parts) > 1 else masculine + ("" if masculine.endswith("e") else "e")
            plural = parts[2] if len(parts) > 2 else masculine + ("" if masculine[-1] in "sx" else "s")
            vowel = parts[3] if len(parts) > 3 else None
            adjectives.append(Adjective(en, (masculine, feminine, plural, feminine + "s"), vowel, before, kinds))
    return adjectives


def make_verbs(table: str, irregular: dict[str, list[str]]) -> list[Verb]:
    verbs = []
    for line in table.strip().split("\n"):
        line, _, objects = line.partition(":")
        left, right = (part.split() for part in line.split("="))
        base, *particle = left[0].split("+")
        past = left[1] if len(left) > 1 else english_past(base)
        participle = left[2] if len(left) > 2 else past
        ing = left[3] if len(left) > 3 else english_ing(base)
        flags = right[1] if len(right) > 1 else ""
        generic = "g" in flags and "-" not in flags
        third = "has" if base == "have" else base + "es" if base == "go" else english_plural(base)
        verbs.append(
            Verb(
                base,
                third,
                ing,
                past,
                participle,
                tuple(particle),
                french_verb(right[0], irregular),
                tuple(objects.split()),
                "s" in flags,
                "i" in flags,
                generic,
            )
        )
    return verbs


IRREGULAR = {line.split()[0]: line.split()[1:] for line in FRENCH_IRREGULAR.strip().split("\n")}
NOUN_KINDS = make_nouns()
ADJECTIVES = make_adjectives()
TRANSITIVES = make_verbs(TRANSITIVE, IRREGULAR)
INTRANSITIVES = make_verbs(INTRANSITIVE, IRREGULAR)
MOTIONS = make_verbs(MOTION, IRREGULAR)
GIVINGS = make_verbs(GIVING, IRREGULAR)
ETRE, AVOIR, ALLER, POUVOIR, DEVOIR, VOULOIR, DIRE, FAIRE, SAVOIR = (
    french_verb(verb, IRREGULAR)
    for verb in ("être", "avoir", "aller", "pouvoir", "devoir", "vouloir", "dire", "faire", "savoir")
)
PENSER = french_verb("penser", IRREGULAR)
UNKNOWN_NOUN = Noun(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, "m", "unknown")
UNKNOWN_ADJECTIVE = Adjective(UNKNOWN, (UNKNOWN,) * 4, None, False, "b")
