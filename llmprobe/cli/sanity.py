"""``llmprobe sanity xor`` and ``llmprobe sanity mnist``: experiments with small networks."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import add_out, command
from llmprobe.cli.output import print_report


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    experiments = parser.add_subparsers(metavar="EXPERIMENT", required=True, dest="sanity")
    xor = experiments.add_parser("xor", help="a 2-2-1 network on XOR; ten seconds")
    add_out(xor, "runs/sanity-xor")
    mnist = experiments.add_parser(
        "mnist", help="a convnet on scikit-learn's digits (a minute) or MNIST (--quick: minutes)"
    )
    add_out(mnist, "runs/sanity-mnist")
    mnist.add_argument(
        "--data", default="auto", metavar="DATA",
        help="digits, mnist, a folder of IDX files, or an image dataset on the Hub; default: "
        "MNIST where LLMPROBE_DATA has it, else digits",
    )  # fmt: skip
    mnist.add_argument(
        "--quick", action="store_true", help="fewer epochs, and fewer images for the probes"
    )
    mnist.add_argument(
        "--network", choices=["convnet", "bypass"], default="convnet",
        help="the convnet of Alain & Bengio's section 3.5 (default), or the deep network with a "
        "bypass of their section 5.1",
    )  # fmt: skip
    mnist.add_argument(
        "--probe-images", type=int, metavar="N",
        help="the most training images for the convnet's probes (default: 20,000, or 1,500 with "
        "--quick)",
    )  # fmt: skip
    mnist.add_argument(
        "--linear", action="store_true",
        help="measure at each point how much more a curved probe would read",
    )  # fmt: skip
    mnist.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    mnist.add_argument("--seed", type=int, default=0, metavar="N")


@command(
    "sanity", "Show how small networks make classes separable: XOR, and a convnet on MNIST.",
    _add_arguments,
)  # fmt: skip
def sanity(options: argparse.Namespace) -> None:
    """Run an experiment, draw it, and print its results."""
    from llmprobe.config.load import validated
    from llmprobe.sanity.config import KINDS

    kind = KINDS[options.sanity]
    chosen = {key: value for key, value in vars(options).items() if key in kind.model_fields}
    config = validated(kind, chosen, f"sanity {options.sanity}")
    out = options.out or Path("runs") / f"sanity-{options.sanity}"
    from llmprobe.sanity import experiments

    experiments.run(config, out)
    print_report(out)
