"""Train the weights of `osnet demo`, src/osnet/demo/weights, on generated people. They have no other use.

    python benchmarks/demo_weights.py --work /tmp/demo-weights --out src/osnet/demo/weights

The people have another seed than the demo's, so the network is not trained on the demo's people. Takes some minutes on
two cores. The recipe is `demo-osnet-x0-25` at 64 x 32 pixels. The last of 12 epochs is saved, without selection. The
weights in the repository are from the 9th epoch, where their run was stopped for lack of time.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from osnet import Embedder, evaluate, read_market1501
from osnet.files import make_folder
from osnet.recipes.demo_recipes import demo_osnet_x0_25
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.training.trainer import RunOptions, Trainer
from osnet.weights.card import Card
from osnet.weights.checkpoint import load_weights, save_weights

SEED = 4711
PEOPLE = GeneratedSettings(identities=384, cameras=4, images=4, seed=SEED)
RECIPE = replace(demo_osnet_x0_25(), epochs=12, size_hw=(64, 32))
LICENCE = "MIT"
SOURCE = (
    f"benchmarks/demo_weights.py: trained on {PEOPLE.identities // 2} generated people (seed {SEED}) for `osnet demo`. "
    "Not for images of real people"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    data = make_folder(given.work) / "people"
    if not data.exists():
        generate_dataset(data, PEOPLE)
    dataset = read_market1501(data)
    weights = Trainer(RECIPE, dataset, given.work / "run", RunOptions(cpu=True)).run()
    trained = load_weights(weights)
    print(evaluate(Embedder(weights, device="cpu"), dataset))
    card = replace(
        trained.card or Card(trained.config),
        name=None,
        training_data="generated people",
        licence=LICENCE,
        source=SOURCE,
    )
    shutil.rmtree(given.out, ignore_errors=True)
    saved = save_weights(trained, given.out, card)
    size = sum(path.stat().st_size for path in given.out.iterdir())
    print(json.dumps({"out": str(given.out), "bytes": size, "sha256": saved.sha256}))


if __name__ == "__main__":
    main()
