"""Common nouns by category; every noun stands in one category only."""

CATEGORIES: dict[str, list[str]] = {
    "animal": """
        dog cat horse cow sheep goat pig rabbit mouse lion tiger bear wolf fox deer monkey elephant giraffe zebra camel squirrel otter
        badger hedgehog donkey panda kangaroo leopard hippo gorilla
    """.split(),
    "bird": """
        eagle owl crow robin sparrow pigeon parrot swan goose penguin falcon hawk heron stork raven magpie finch pelican ostrich
        flamingo peacock woodpecker blackbird cuckoo puffin vulture nightingale seagull
    """.split(),
    "fish": """
        salmon trout tuna cod herring carp shark haddock sardine mackerel halibut eel anchovy piranha catfish swordfish goldfish
        stingray barracuda flounder sturgeon seahorse minnow tilapia
    """.split(),
    "insect": """
        ant bee wasp beetle butterfly moth mosquito grasshopper cricket dragonfly ladybird cockroach termite flea hornet locust aphid
        bumblebee earwig firefly mayfly louse gnat weevil
    """.split(),
    "reptile": """
        snake lizard crocodile alligator tortoise gecko iguana chameleon cobra python viper rattlesnake boa skink anaconda adder
        terrapin caiman turtle gharial mamba
    """.split(),
    "fruit": """
        apple banana cherry grape lemon mango melon peach pear plum strawberry raspberry blueberry pineapple apricot papaya coconut
        grapefruit blackberry nectarine pomegranate tangerine watermelon cranberry gooseberry
    """.split(),
    "vegetable": """
        carrot potato onion cabbage spinach lettuce broccoli celery leek radish turnip cauliflower asparagus beetroot garlic parsnip
        kale artichoke shallot fennel
    """.split(),
    "tool": """
        hammer saw drill wrench clamp chisel screwdriver axe shovel rake spade sickle crowbar mallet hoe pickaxe trowel scythe
        pitchfork sledgehammer hacksaw spanner
    """.split(),
    "instrument": """
        guitar piano violin cello flute trumpet drum harp clarinet oboe trombone saxophone banjo tuba accordion bassoon mandolin
        ukulele xylophone harmonica tambourine lute cornet piccolo
    """.split(),
    "furniture": """
        chair table sofa bed desk wardrobe bookcase dresser stool armchair bench cupboard couch cabinet nightstand futon recliner
        sideboard footstool cradle bookshelf
    """.split(),
    "vehicle": """
        car bus train truck bicycle tram van motorcycle boat ship helicopter taxi scooter lorry ferry tractor submarine ambulance
        canoe yacht limousine kayak minibus sailboat
    """.split(),
    "clothing": """
        shirt trousers coat hat scarf glove sock skirt jacket sweater blouse cardigan jeans pyjamas shorts hoodie mitten gown raincoat
        overcoat waistcoat leggings tuxedo beanie
    """.split(),
    "profession": """
        teacher doctor nurse lawyer dentist baker farmer plumber carpenter electrician pilot chef journalist engineer architect
        pharmacist librarian butcher barber tailor judge surgeon accountant cashier
    """.split(),
    "body": """
        arm leg knee elbow shoulder ankle wrist finger thumb nose ear mouth chin neck chest stomach toe heel tongue tooth forehead
        cheek eyebrow lip
    """.split(),
    "kitchenware": """
        spoon fork plate bowl kettle saucepan cup mug teapot ladle whisk spatula colander toaster grater oven fridge corkscrew blender
        jug
    """.split(),
    "building": """
        house church castle hospital school library museum hotel theatre factory barn palace cathedral cottage stadium warehouse
        airport prison temple bakery skyscraper
    """.split(),
    "landscape": """
        river mountain lake valley island desert forest beach hill ocean volcano waterfall cave canyon swamp cliff glacier meadow
        lagoon peninsula
    """.split(),
    "weather": """
        rain snow storm wind fog thunder lightning hail breeze hurricane drizzle frost blizzard sunshine tornado mist sleet
    """.split(),
    "sport": """
        football tennis hockey golf rugby basketball volleyball badminton boxing judo karate skiing baseball swimming fencing archery
        rowing wrestling
    """.split(),
    "stationery": """
        pencil notebook eraser envelope stapler crayon folder sharpener marker notepad paperclip postcard diary calendar pen
    """.split(),
    "flower": """
        rose tulip daisy lily daffodil sunflower orchid poppy violet marigold snowdrop carnation dandelion buttercup primrose bluebell
    """.split(),
    "tree": """
        oak pine birch willow maple beech elm spruce cedar poplar sycamore cypress larch hawthorn alder
    """.split(),
    "drink": """
        tea coffee juice milk water beer wine lemonade cocoa cider whisky champagne vodka espresso milkshake
    """.split(),
    "food": """
        bread cheese butter sandwich soup pizza pasta rice sausage omelette pancake salad yoghurt biscuit cake honey jam noodle burger
        waffle
    """.split(),
}

NOUNS: list[str] = [word for words in CATEGORIES.values() for word in words]

# Everyday nouns that stand in no category above.
OTHERS: list[str] = """
    anchor angle answer basket battery beacon blanket border bottle bridge bucket button camera candle carpet ceiling century circle
    corner cotton curtain cushion danger diamond dinner dragon engine evening fabric feather figure flag flame friend future garden
    gate giant glass handle harbour helmet holiday jewel journey kingdom kitchen ladder lantern leather legend letter magnet market
    memory message mirror moment money morning nature needle number object office orbit package painting parcel pattern pebble pepper
    picture pillow planet platform pocket poem portrait present prince promise puzzle question quilt ribbon riddle rocket season
    secret shadow signal silence silver sister soldier sponge spring square stamp station stone story street student summer surface
    symbol system target theory thread ticket timber traffic treasure triangle tunnel umbrella uncle valve vase village voyage wagon
    wallet window winter wizard wonder world yarn zipper
""".split()
