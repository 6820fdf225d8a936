"""Methods side by side on CIFAR-10: configs/cifar10/comparison/.

All share data, steps, batch size and, but for VQ-VAE-2, the network. These are no cells of a paper:
a file is the page below with a method's own lines in it.
"""

import textwrap
from typing import NamedTuple

PAGE = """# {about}
#   imagetok train configs/cifar10/comparison/{name}.yaml --set data.download=true --out runs/{name}
kind: tokenizer
seed: 42
data: {{source: cifar10, root: data, download: false}}
tokenizer:
  image: {{mode: rgb, height: 32, width: 32, centre_crop: null, resize: cover, interpolation: bilinear}}
  network: {network}
  {middle}
  likelihood: {{kind: {likelihood}}}
objective:
  weights:{weights}
  temperature: {temperature}
train:
  steps: 1500
  batch_size: 32
  accumulation: 1
  learning_rate: {{kind: quarter_cosine, start: 0.001, end: 1.25e-06, steps: 1500}}
  optimizer:
    betas: [0.9, 0.999]
    eps: 1.0e-08
    weight_decay: 0.0
  clip_norm: null
  mixed_precision: 'no'
  ema_decay: null
  log_every: 50
  evaluate_every: 500
  checkpoint_every: 500
  workers: 0
  trackers: [tensorboard]
"""  # noqa: E501
SHARED = """{kind: conv, width: 16, groups: 3, blocks: 2, kernel_size: 3, residual_gain: 0.4082482904638631,
    dropout: 0.0, init: torch}"""  # noqa: E501
HIERARCHY = "{kind: vqvae2, width: 32, residual_width: 16, residual_layers: 2}"


class Method(NamedTuple):
    """A file's own lines, in the words of a config."""

    title: str
    middle: str
    """The line `quantizer`, `quantizers` or `latent`."""
    weights: dict[str, str]
    temperature: str = "{kind: constant, value: 1.0}"
    likelihood: str = "mse"
    network: str = SHARED
    remark: str = ""


def constants(**weights: float) -> dict[str, str]:
    """Loss weights that do not change."""
    return {name: f"{{kind: constant, value: {w}}}" for name, w in weights.items()}


def ramp(weight: str) -> dict[str, str]:
    """The weight of a KL that grows from 0 in the first steps."""
    return {"kl": f"{{kind: quarter_cosine, start: 0.0, end: {weight}, steps: 100}}"}


def quantizer(settings: str) -> str:
    """512 codes of 16 dimensions; settings: `{kind: ...}`."""
    kind, _, rest = settings.partition(", ")
    return f"quantizer: {kind}, num_codes: 512, code_dim: 16, {rest}".replace(", }", "}")


COOLED = "{kind: exponential, start: 1.0, rate: 0.001}"
ALIVE = "init: kmeans,\n    reset: {kind: least-recently-used, timeout: 100, noise: 0.01}}"
VQ = constants(codebook=1.0, commitment=0.25)
EMA = constants(commitment=0.25)
LEVEL = f"{{kind: vqvae-ema, num_codes: 512, code_dim: 16, decay: 0.99, {ALIVE}"


def sqvae(title: str, variance: str, floor: str) -> Method:
    """Gaussian SQ-VAE."""
    settings = f"variance: {variance}, log_variance: 0.0, floor: {floor}, test_rule: argmax"
    return Method(
        title,
        quantizer(f"{{kind: sqvae, {settings}}}"),
        constants(continuous=1.0, discrete=1.0),
        COOLED,
        "arelbo",
    )


def sqvae_of_type(variance: str) -> Method:
    """Types I to IV, of which only the first can do without a floor."""
    first, floor = (1, "false") if variance == "I" else ("about 2", "true")
    title = f"Gaussian SQ-VAE of type {variance} with a first variance of {first} instead of 21"
    return sqvae(title, variance, floor)


METHODS = {
    "vae": Method(
        "VAE",
        "latent: {kind: gaussian, dim: 16, per: position}",
        constants(kl=1.0),
        likelihood="arelbo",
        remark="It has no codes: where the others have one, it has 16 continuous numbers.",
    ),
    "edvae": Method(
        "EdVAE",
        quantizer(
            "{kind: edvae, evidence: exp, max_logit: 20.0, kl: exact,\n"
            "    probabilities: mean, test_rule: argmax}"
        ),
        ramp("5.0e-07"),
        COOLED,
    ),
    "dvae": Method("dVAE", quantizer("{kind: dvae, test_rule: argmax}"), ramp("5.0e-05"), COOLED),
    "gs-vqvae": Method(
        "GS-VQ-VAE", quantizer("{kind: gs-vqvae, test_rule: argmax}"), ramp("5.0e-06"), COOLED
    ),
    "vqvae": Method(
        "VQ-VAE with a k-means start and a reset of idle codes",
        quantizer(f"{{kind: vqvae, {ALIVE}"),
        VQ,
    ),
    "vqvae-ema": Method(
        "VQ-VAE with an EMA codebook, a k-means start and a reset of idle codes",
        quantizer(f"{{kind: vqvae-ema, decay: 0.99, {ALIVE}"),
        EMA,
    ),
    "vqvae-ema-plain": Method(
        "VQ-VAE with an EMA codebook as the papers start it, without a reset",
        quantizer("{kind: vqvae-ema, decay: 0.99, init: uniform, reset: {kind: none}}"),
        EMA,
    ),
    "vqvae-ema-jukebox": Method(
        "VQ-VAE with an EMA codebook, and start and reset of Jukebox",
        quantizer(
            "{kind: vqvae-ema, decay: 0.99, init: data,\n"
            "    reset: {kind: random, threshold: 1.0, decay: 0.99}}"
        ),
        EMA,
        remark="A code that is used less than once a step becomes a random current vector.",
    ),
    "sqvae-fixed": sqvae("Gaussian SQ-VAE with a fixed variance of 1", "fixed", "false"),
    "sqvae": sqvae_of_type("I"),
    "sqvae-II": sqvae_of_type("II"),
    "sqvae-III": sqvae_of_type("III"),
    "sqvae-IV": sqvae_of_type("IV"),
    "vqste": Method(
        "VQ-STE++",
        quantizer(
            "{kind: vq-ste++, beta: 0.98, affine: {rate: 10.0, groups: 1},\n"
            "    synchronisation: 0.2, alternation: null, init: kmeans, "
            "reset: {kind: least-recently-used, timeout: 20, noise: 0.01}}"
        ),
        constants(vq=10.0),
    ),
    "vqvae2": Method(
        "VQ-VAE-2, 4 x 4 codes above 8 x 8, on its own network",
        f"quantizers:\n  - {LEVEL}\n  - {LEVEL}",
        constants(commitment_level0=0.01, commitment_level1=0.01),
        network=HIERARCHY,
    ),
    "fsq": Method(
        "FSQ",
        "quantizer: {kind: fsq, levels: [8, 8, 8]}",
        {},
        remark="Its 512 codes are 8 steps in each of 3 dimensions.",
    ),
    "lfq": Method(
        "LFQ",
        "quantizer: {kind: lfq, code_dim: 9, temperature: 1.0}",
        constants(sample_entropy=0.001, diversity=0.03, commitment=0.02),
        remark="Its 512 codes are the signs of 9 dimensions.",
    ),
    "residual-vq": Method(
        "Residual VQ",
        quantizer("{kind: residual-vq, num_levels: 2}"),
        VQ,
        remark="Two levels of 512 codes: twice the bits of the others.",
    ),
    "simvq": Method("SimVQ", quantizer("{kind: simvq, }"), VQ),
    "rotation-vq": Method("VQ with the rotation trick", quantizer("{kind: rotation-vq, }"), VQ),
}
ZOO = {"fsq", "lfq", "residual-vq", "simvq", "rotation-vq"}


def methods(mark: str) -> dict[str, str]:
    """The text of every file, by its path under configs/; mark: who wrote it."""
    return {f"cifar10/comparison/{name}.yaml": text_of(name, mark) for name in METHODS}


def text_of(name: str, mark: str) -> str:
    """The YAML file of a method."""
    method = METHODS[name]
    shared = "batch size" if method.network == HIERARCHY else "batch size, and the same network"
    about = (
        f"{method.title} on CIFAR-10 in about three minutes on a CPU core.",
        method.remark,
        "One of the settings of docs/results/cifar10-methods.md: the same data, steps and "
        f"{shared}.",
        'It needs pip install "imagetok[zoo]".' if name in ZOO else "",
    )
    header = textwrap.wrap(" ".join(filter(None, about)), 118, break_on_hyphens=False)
    weights = "".join(f"\n    {loss}: {weight}" for loss, weight in method.weights.items())
    return PAGE.format(
        about="\n# ".join([*header, mark]),
        name=name,
        network=method.network,
        middle=method.middle,
        likelihood=method.likelihood,
        weights=weights or " {}",
        temperature=method.temperature,
    )
