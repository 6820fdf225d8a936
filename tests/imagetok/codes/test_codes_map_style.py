"""A code dataset is a map-style dataset like any other: indices, loaders, subsets and trainers."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import integers, none, tuples
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate, random_split

from imagetok.codes.reader import CodeBatch, CodeDataset, CodeSample

COUNT = 45  # 6 shards of 8 in blocks of 4, the last of 5
BOUNDS = none() | integers(-COUNT - 3, COUNT + 3)


@pytest.fixture
def dataset(encode) -> CodeDataset:
    return encode(COUNT)


def assert_samples(batch: CodeBatch, dataset: CodeDataset, indices: list[int]) -> None:
    samples = [dataset[i] for i in indices]
    assert type(batch) is CodeBatch
    assert batch.keys.tolist() == [sample.key for sample in samples] == indices
    assert batch.labels.tolist() == [sample.label for sample in samples]
    expected = np.stack([sample.codes[0] for sample in samples]).astype(np.int64)
    assert torch.equal(batch.codes[0], torch.from_numpy(expected))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bounds=tuples(BOUNDS, BOUNDS, none() | integers(-4, 4).filter(bool)))
def test_a_slice_is_that_of_a_list(dataset, bounds):
    index = slice(*bounds)
    assert dataset[index].keys.tolist() == list(range(COUNT))[index]


def test_integers_of_any_type_and_from_the_end(dataset):
    for index in (np.int64(7), torch.tensor(7), np.uint8(7), 7 - COUNT, torch.tensor(7 - COUNT)):
        sample = dataset[index]
        assert type(sample) is CodeSample
        assert sample.key == 7 and np.array_equal(sample.codes[0], dataset[7].codes[0])
    for index in (COUNT, -COUNT - 1, np.int64(COUNT), [0, COUNT], torch.tensor([-COUNT - 1])):
        with pytest.raises(IndexError, match="out of range for 45 samples"):
            dataset[index]


def test_several_indices_are_a_batch(dataset):
    places = [44, 3, 3, 0, 17]
    for index in (places, tuple(places), np.array(places), torch.tensor(places)):
        assert_samples(dataset[index], dataset, places)
    assert_samples(dataset[[-1, 0]], dataset, [44, 0])
    assert_samples(dataset[range(40, 45)], dataset, [40, 41, 42, 43, 44])
    mask = torch.arange(COUNT) % 11 == 2
    for index in (mask, mask.numpy(), mask.tolist()):
        assert_samples(dataset[index], dataset, [2, 13, 24, 35])
    for index in ([], slice(0, 0), np.array([], dtype=np.int64)):
        assert len(dataset[index].labels) == 0
    with pytest.raises(IndexError, match="a mask over 45 samples, found one over 3"):
        dataset[[True, False, True]]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("index", [1.5, "3", None, [0.5], np.zeros((2, 2), int), ["a"]])
def test_other_indices_are_refused(dataset, index):
    with pytest.raises(TypeError):
        dataset[index]


def test_it_is_iterated_over_once(dataset):
    samples = list(dataset)
    assert [sample.key for sample in samples] == list(range(COUNT))
    assert {type(sample) for sample in samples} == {CodeSample}


@pytest.mark.parametrize(
    "workers, context",
    [
        (0, None),
        (2, "fork"),
        pytest.param(2, "spawn", marks=pytest.mark.slow),
    ],
)
def test_loaders_subsets_and_joined_datasets_have_batches(dataset, workers, context):
    first, second = random_split(dataset, [0.6, 0.4], torch.Generator().manual_seed(0))
    for part, indices in (
        (dataset, range(COUNT)),
        (Subset(dataset, range(20, 3, -2)), range(20, 3, -2)),
        (first, first.indices),
        (ConcatDataset([first, second]), [*first.indices, *second.indices]),
    ):
        loader = DataLoader(
            part, batch_size=8, num_workers=workers, multiprocessing_context=context
        )
        batches = list(loader)
        assert {type(batch) for batch in batches} == {CodeBatch}
        whole = CodeBatch(
            (torch.cat([batch.codes[0] for batch in batches]),),
            torch.cat([batch.labels for batch in batches]),
            torch.cat([batch.keys for batch in batches]),
        )
        assert_samples(whole, dataset, list(indices))
    shuffled = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=workers)
    assert sorted(torch.cat([batch.keys for batch in shuffled]).tolist()) == list(range(COUNT))


def test_a_collate_function_sees_samples_or_the_batch(dataset):
    def tokens(samples: list[CodeSample]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(s.codes[0].astype(np.int64)) for s in samples])

    (batch,) = DataLoader(dataset, batch_size=COUNT, collate_fn=tokens)
    assert torch.equal(batch, dataset[:].codes[0])
    samples = dataset.__getitems__([5, -1])
    assert len(samples) == 2 and [s.key for s in samples[::-1]] == [44, 5]
    assert [s.label for s in samples] == samples.labels.tolist()
    assert samples[0].codes[0].dtype == dataset[5].codes[0].dtype
    assert_samples(default_collate([dataset[5], dataset[44]]), dataset, [5, 44])


def test_several_levels_are_batches_too(encode):
    dataset = encode(9)
    sample = dataset[3]
    two = [CodeSample((s.codes[0][:2, :2], s.codes[0]), s.label, s.key) for s in dataset]
    batch = next(iter(DataLoader(two, batch_size=9)))
    assert [tuple(level.shape) for level in batch.codes] == [(9, 2, 2), (9, 4, 4)]
    assert batch.codes[1][3].tolist() == sample.codes[0].tolist()
    assert {level.dtype for level in batch.codes} == {torch.int64}


def test_a_trainer_of_transformers_trains_on_it(dataset, tmp_path):
    transformers = pytest.importorskip("transformers")

    def tokens(samples):
        codes = default_collate(samples).codes[0].flatten(1)
        return {"input_ids": codes, "labels": codes}

    (length,) = {height * width for height, width in dataset.grids}
    config = transformers.GPT2Config(
        vocab_size=dataset.num_codes[0], n_positions=length, n_embd=8, n_layer=1, n_head=1
    )
    model = transformers.GPT2LMHeadModel(config)
    before = model.transformer.wte.weight.detach().clone()
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=8, use_cpu=True, report_to=[],
            save_strategy="no", disable_tqdm=True,
        ),
        data_collator=tokens,
        train_dataset=dataset,
        eval_dataset=Subset(dataset, range(10)),
    )  # fmt: skip
    assert trainer.train().global_step == 2
    assert not torch.equal(model.transformer.wte.weight, before)
    seen = trainer.predict(Subset(dataset, [9, 2, 30])).label_ids
    assert np.array_equal(seen, dataset[[9, 2, 30]].codes[0].flatten(1).numpy())
