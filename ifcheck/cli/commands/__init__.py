"""One module per command."""

from ifcheck.cli.commands.compare import compare
from ifcheck.cli.commands.diagnose import diagnose
from ifcheck.cli.commands.eigen import eigen
from ifcheck.cli.commands.evaluate import evaluate
from ifcheck.cli.commands.fragility import fragility
from ifcheck.cli.commands.influence import influence
from ifcheck.cli.commands.inspect import inspect
from ifcheck.cli.commands.retrain import retrain
from ifcheck.cli.commands.train import train
from ifcheck.cli.session import with_common_options

COMMANDS = {
    command.__name__: with_common_options(command)
    for command in (
        train,
        influence,
        retrain,
        eigen,
        evaluate,
        fragility,
        diagnose,
        compare,
        inspect,
    )
}
