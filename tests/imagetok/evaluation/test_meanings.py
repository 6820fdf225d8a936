"""What the names of measures mean."""

from imagetok.comparison.results import DEFINITIONS
from imagetok.evaluation.meanings import MEANINGS, meanings_of


def test_levels_networks_and_reconstructions_share_the_meaning_of_their_measure():
    names = ["perplexity_level0", "perplexity_level1", "frechet_resnet18", "rfid", "nothing"]
    assert meanings_of(names) == {
        "perplexity": MEANINGS["perplexity"],
        "frechet_resnet18": MEANINGS["frechet"],
        "rfid": MEANINGS["fid"],
    }


def test_recall_is_not_taken_for_a_measure_of_reconstructions():
    found = meanings_of(["recall_vgg16", "rrecall_vgg16", "rprecision"])
    assert found["recall_vgg16"] == found["rrecall_vgg16"] == MEANINGS["recall"]
    assert found["rprecision"] == MEANINGS["precision"]


def test_a_comparison_defines_a_shared_measure_as_every_page_does():
    shared = DEFINITIONS.keys() & MEANINGS.keys() - {"bits_per_image"}  # a prior's has its model
    assert len(shared) >= 10
    assert all(DEFINITIONS[name] == MEANINGS[name] for name in shared)
