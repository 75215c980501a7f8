#!/usr/bin/env python3
"""Turn the weights of the original Keras U-Net into a LiverLoop checkpoint; needs neither Keras nor TensorFlow."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from lib.console import Parser, check_output_file, run
from lib.networks.checkpoint import save_weights
from lib.networks.keras_weights import load_keras_weights
from lib.networks.unet import MulticlassUNet


def main() -> None:
    """Read the arguments, import, write."""
    parser = Parser(description=__doc__)
    parser.add_argument("weights", type=Path, help="the Keras file: .h5, .weights.h5 or .keras")
    parser.add_argument("out", type=Path, help="the checkpoint to write, for example model.pt")
    parser.add_argument("--in-channels", type=int, default=3, help="image channels of the network (default: 3)")
    parser.add_argument(
        "--out-channels", type=int, default=3, help="classes of the network, background included (default: 3)"
    )
    arguments = parser.parse_args()

    check_output_file(arguments.out)
    network = MulticlassUNet(arguments.in_channels, arguments.out_channels)
    load_keras_weights(arguments.weights, network)
    meta = {
        "network": type(network).__name__,
        "in_channels": arguments.in_channels,
        "out_channels": arguments.out_channels,
        "imported_from": arguments.weights.name,
    }
    save_weights(arguments.out, network, meta)
    count = sum(parameter.numel() for parameter in network.parameters())
    sys.stdout.write(f"{arguments.out}: {count:,} parameters from {arguments.weights}\n")


if __name__ == "__main__":
    run(main)
