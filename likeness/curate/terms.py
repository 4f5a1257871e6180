"""Words that say that a person is in a clip: the "human term table" of Concat-ID, section 4.2, which was not published.

The paper names its categories, basic human descriptors, gender and occupation; the words are ours, each weighed for what else
a caption may use it for. A false hit costs one decoding, after which the detector drops the clip; a miss loses the clip. So a
word in doubt is in ("model", "player", "baby"), unless it mostly means something else ("marine", "fan", "star", "face", "guide",
"cook" and other verbs, pronouns, which animals have too).

Regular plurals are made in :mod:`likeness.curate.captions`; the others stand here.
"""

from __future__ import annotations

DESCRIPTORS: tuple[str, ...] = (
    "person", "people", "human", "individual", "adult", "child", "children", "kid", "baby", "infant", "toddler", "newborn",
    "teenager", "teen", "preteen", "adolescent", "youth", "youngster", "elder", "elderly", "crowd", "someone", "somebody",
    "figure", "character", "pedestrian", "passenger", "passerby", "passersby", "bystander", "onlooker", "spectator", "audience",
    "participant", "attendee", "newcomer", "villager", "townsfolk", "folk", "tourist", "traveler", "traveller", "backpacker",
    "hiker", "camper", "visitor", "customer", "shopper", "client", "patient", "guest", "neighbor", "neighbour", "resident",
    "citizen", "commuter", "family", "parent", "sibling", "spouse", "couple", "friend", "companion", "colleague", "coworker",
    "co-worker", "teammate", "classmate", "roommate", "team", "crew", "choir", "orchestra", "troupe", "staff", "grandparent",
    "grandchild", "grandchildren", "cousin", "nephew", "niece", "stranger", "volunteer", "celebrity", "protester", "protestor",
    "demonstrator", "immigrant", "refugee", "prisoner", "orphan", "hero", "villain", "hipster", "nomad", "selfie",
)  # fmt: skip

GENDER: tuple[str, ...] = (
    "man", "men", "woman", "women", "male", "female", "boy", "girl", "guy", "dude", "lad", "lady", "gentleman", "gentlemen",
    "mr", "mrs", "ms", "mother", "father", "mom", "mum", "mommy", "mummy", "mama", "dad", "daddy", "papa", "son", "daughter",
    "brother", "sister", "husband", "wife", "wives", "uncle", "aunt", "auntie", "grandmother", "grandfather", "grandma",
    "grandpa", "granny", "grandson", "granddaughter", "stepmother", "stepfather", "godmother", "godfather", "mother-in-law",
    "father-in-law", "fiance", "fiancé", "fiancee", "fiancée", "bride", "groom", "bridegroom", "bridesmaid", "boyfriend",
    "girlfriend", "widow", "widower", "maiden", "king", "queen", "prince", "princess", "duke", "duchess", "emperor", "empress",
    "schoolboy", "schoolgirl", "cowboy", "cowgirl", "housewife", "housewives", "mermaid", "witch", "wizard", "blonde",
    "brunette", "redhead",
)  # fmt: skip

OCCUPATIONS: tuple[str, ...] = (
    # health, science, teaching
    "doctor", "physician", "surgeon", "nurse", "dentist", "paramedic", "pharmacist", "therapist", "psychologist", "psychiatrist",
    "veterinarian", "midwife", "midwives", "caregiver", "scientist", "researcher", "chemist", "physicist", "biologist",
    "astronomer", "mathematician", "historian", "archaeologist", "professor", "teacher", "lecturer", "tutor", "instructor",
    "trainer", "coach", "student", "pupil", "undergraduate", "graduate", "scholar", "librarian", "educator", "astronaut",
    "cosmonaut",
    # public life, law, safety, faith
    "officer", "police", "detective", "sheriff", "firefighter", "soldier", "sailor", "veteran", "warrior", "knight", "samurai",
    "ninja", "pirate", "gladiator", "bodyguard", "lifeguard", "lawyer", "attorney", "politician", "president", "minister",
    "senator", "mayor", "ambassador", "diplomat", "activist", "journalist", "reporter", "presenter", "host", "speaker",
    "newscaster", "newsreader", "interviewer", "interviewee", "commentator", "broadcaster", "podcaster", "blogger", "vlogger",
    "influencer", "youtuber", "streamer", "priest", "monk", "nun", "pastor", "imam", "rabbi", "pope",
    # work
    "worker", "employee", "employer", "manager", "boss", "ceo", "executive", "entrepreneur", "secretary", "receptionist",
    "accountant", "banker", "cashier", "clerk", "shopkeeper", "merchant", "vendor", "seller", "engineer", "architect",
    "designer", "programmer", "developer", "technician", "mechanic", "electrician", "plumber", "carpenter", "welder",
    "blacksmith", "potter", "tailor", "seamstress", "weaver", "artisan", "laborer", "labourer", "farmer", "gardener",
    "shepherd", "rancher", "fisher", "hunter", "lumberjack", "miner", "butcher", "baker", "chef", "barista", "bartender",
    "waiter", "waitress", "waitstaff", "barber", "hairdresser", "hairstylist", "stylist", "beautician", "manicurist",
    "housekeeper", "janitor", "maid", "butler", "nanny", "babysitter", "courier", "pilot", "captain", "driver", "stewardess",
    "steward", "attendant", "chauffeur", "motorist", "trucker", "cyclist", "biker", "motorcyclist", "rider",
    # arts and sport
    "model", "artist", "painter", "sculptor", "illustrator", "photographer", "videographer", "filmmaker", "cinematographer",
    "actor", "actress", "performer", "entertainer", "comedian", "magician", "clown", "juggler", "acrobat", "mime", "singer",
    "vocalist", "rapper", "musician", "guitarist", "pianist", "violinist", "drummer", "cellist", "flutist", "saxophonist",
    "trumpeter", "bassist", "composer", "songwriter", "dj", "dancer", "ballerina", "choreographer", "writer", "author", "poet",
    "novelist", "athlete", "player", "footballer", "golfer", "boxer", "wrestler", "swimmer", "diver", "runner", "gymnast",
    "skater", "skateboarder", "skier", "snowboarder", "surfer", "climber", "mountaineer", "jogger", "sprinter",
    "weightlifter", "bodybuilder", "referee", "umpire", "goalkeeper", "quarterback", "cheerleader", "yogi", "equestrian",
    "jockey", "gamer",
)  # fmt: skip

HUMAN_TERMS: frozenset[str] = frozenset(DESCRIPTORS + GENDER + OCCUPATIONS)

# Words that end like "fisherman", "saleswomen" or "townspeople" are people without being listed, except these.
PERSON_ENDINGS = ("man", "men", "person", "people")
NOT_PEOPLE: frozenset[str] = frozenset({
    "abdomen", "acumen", "albumen", "amen", "bitumen", "brahman", "caiman", "cayman", "cyclamen", "dolmen", "examen", "foramen",
    "german", "hymen", "inhuman", "lumen", "nonhuman", "norman", "numen", "oman", "omen", "ottoman", "ramen", "regimen", "roman",
    "rumen", "semen", "snowman", "snowmen", "specimen", "stamen", "subhuman", "talisman", "walkman", "yemen",
})  # fmt: skip

# A term after one of these says that there is nobody ("an empty street, no people"), also with one of the others between.
NEGATIONS: frozenset[str] = frozenset({"no", "without", "zero"})
PASSED_OVER: frozenset[str] = frozenset({"any", "single", "visible", "human", "living"})
