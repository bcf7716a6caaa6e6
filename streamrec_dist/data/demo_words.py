"""The vocabulary of the demo catalogue: invented brands, plausible product kinds, and their texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrec_dist.data.raw import ItemFields


@dataclass(frozen=True)
class Kind:
    """A leaf category: its department, the noun in titles, its category name, and what the thing is for."""

    department: str
    noun: str
    category: str
    purpose: str


BRANDS = (
    "Alderwick", "Brightmoor", "Corvane", "Dunmere", "Evenfall",
    "Fennhold", "Glasswing", "Harrowby", "Inkwell & Pine", "Juniper Row",
)  # fmt: skip

TIERS = ("Essential", "Classic", "Plus", "Pro", "Signature")

TIER_SENTENCES = (
    "A simple entry-level version at a low price",
    "The standard version that most households choose",
    "An improved version with better parts and a longer warranty",
    "A sturdy version built for daily professional use",
    "The finest version of the line, finished by hand",
)

MATERIALS = (
    "stainless steel", "bamboo", "anodised aluminium", "recycled plastic", "solid beech", "coated canvas",
    "borosilicate glass", "silicone",
)  # fmt: skip

COLOURS = ("graphite", "ivory", "sage green", "navy blue", "terracotta", "sand", "slate", "mustard")

DEPARTMENTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Kitchen": (
        ("Chef Knife", "Knives", "slicing vegetables and meat"),
        ("Saucepan", "Cookware", "sauces, soups and reheating"),
        ("Stand Mixer", "Small Appliances", "kneading dough and whipping cream"),
        ("Storage Jar Set", "Food Storage", "keeping flour, pasta and coffee dry"),
        ("Coffee Dripper", "Coffee & Tea", "brewing filter coffee by hand"),
    ),
    "Garden": (
        ("Pruning Shears", "Hand Tools", "cutting back roses and shrubs"),
        ("Garden Hose", "Watering", "watering beds and lawns"),
        ("Raised Bed", "Planters", "growing herbs and salad on a patio"),
        ("Seed Tray", "Propagation", "raising seedlings on a window sill"),
        ("Fire Bowl", "Outdoor Heating", "warm evenings on the terrace"),
    ),
    "Office": (
        ("Fountain Pen", "Writing Instruments", "letters and long notes"),
        ("Desk Lamp", "Lighting", "reading and drawing without glare"),
        ("Dot Grid Notebook", "Notebooks", "plans, sketches and journals"),
        ("Monitor Arm", "Desk Mounts", "raising a screen to eye level"),
        ("Document Tray", "Desk Organisers", "sorting incoming paper"),
    ),
    "Sports": (
        ("Yoga Mat", "Yoga", "floor exercise and stretching"),
        ("Trail Running Vest", "Running", "carrying water on long runs"),
        ("Climbing Harness", "Climbing", "indoor and sport climbing"),
        ("Kettlebell", "Strength Training", "swings, presses and squats"),
        ("Swim Goggles", "Swimming", "pool training and open water"),
    ),
    "Baby": (
        ("Baby Carrier", "Carrying", "keeping a newborn close and hands free"),
        ("Bottle Warmer", "Feeding", "warming milk gently at night"),
        ("Cot Mobile", "Nursery", "calming a baby before sleep"),
        ("Bath Thermometer", "Bathing", "checking the water temperature"),
        ("Stacking Blocks", "Toys", "first games with shapes and colours"),
    ),
    "Pets": (
        ("Dog Harness", "Dog Walking", "walks without pulling on the neck"),
        ("Cat Tree", "Cat Furniture", "climbing, scratching and naps"),
        ("Aquarium Filter", "Aquariums", "clear water in small tanks"),
        ("Grooming Brush", "Grooming", "removing loose hair"),
        ("Slow Feeder Bowl", "Pet Feeding", "dogs that eat too fast"),
    ),
    "Audio": (
        ("Bookshelf Speaker", "Speakers", "music in a small living room"),
        ("Open-Back Headphones", "Headphones", "long listening at home"),
        ("Turntable", "Record Players", "playing vinyl records"),
        ("USB Microphone", "Microphones", "podcasts and calls"),
        ("Travel Radio", "Radios", "news and music on the road"),
    ),
    "Crafts": (
        ("Watercolour Set", "Painting", "sketching landscapes outdoors"),
        ("Knitting Needle Kit", "Knitting", "socks, scarves and jumpers"),
        ("Wood Carving Chisel", "Wood Carving", "reliefs and small figures"),
        ("Sewing Scissors", "Sewing", "cutting fabric along a pattern"),
        ("Pottery Tool Kit", "Pottery", "shaping and trimming clay"),
    ),
}  # fmt: skip

KINDS = tuple(Kind(department, *entry) for department, entries in DEPARTMENTS.items() for entry in entries)


def item_fields(kind: int, brand: int, tier: int, rng: np.random.Generator) -> ItemFields:
    """Title and texts of one item. The title names brand, tier and kind and so is unique in the catalogue."""
    thing = KINDS[kind]
    material, colour = rng.choice(MATERIALS), rng.choice(COLOURS)
    return ItemFields(
        title=f"{BRANDS[brand]} {TIERS[tier]} {thing.noun}, {colour}",
        brand=BRANDS[brand],
        categories=f"{thing.department}, {thing.category}",
        description=f"{TIER_SENTENCES[tier]}. Made of {material} for {thing.purpose}.",
    )
