"""Pictures of the live view, as a real terminal shows it: docs/figures/watch-*.svg.

python benchmarks/screens.py                    # all of them
python benchmarks/screens.py --scene crashed --size 80x24 --theme light --out .
python benchmarks/screens.py --run runs/demo --name demo     # a run as it is now
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.terminal_theme import TerminalTheme
from terminal import Terminal

REPO = Path(__file__).parents[1]
FIGURES = REPO / "docs" / "figures"
SIZES = ("80x24", "120x40")
#: What is pictured by default, with the keys that are pressed before.
PICTURES = {
    "healthy": ("rl", ()),
    "restarting": ("restarting", ()),
    "collapsed": ("collapsed", ()),
    "finished": ("finished", ()),
    "crashed": ("crashed", ()),
    "thinking": ("sft", ()),
}
ANSI = [
    (0, 0, 0),
    (205, 49, 49),
    (13, 188, 121),
    (165, 120, 0),
    (36, 114, 200),
    (188, 63, 188),
    (17, 140, 180),
]
THEMES = {
    "dark": TerminalTheme((24, 26, 31), (214, 216, 220), [*ANSI, (214, 216, 220)]),
    "light": TerminalTheme((255, 255, 255), (32, 34, 38), [*ANSI, (96, 96, 96)]),
}
#: The picture shall need nothing from elsewhere: any monospaced font there is.
FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)
FORMAT = FONTS.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", "Menlo, Consolas, monospace")


def screen(scene: str, width: int, height: int, keys: tuple[str, ...] = ()) -> str:
    """What a terminal shows of a scene, with the escapes of its styles."""
    return shown([str(REPO / "benchmarks" / "scenes.py"), scene], REPO, width, height, keys)


def watched(run: Path, width: int, height: int) -> str:
    """What `watch` shows of a run at this moment."""
    return shown(["-m", "cli.app", "watch", run.name], run.absolute().parents[1], width, height)


def shown(arguments: list[str], folder: Path, width: int, height: int, keys: tuple[str, ...] = ()) -> str:
    """What a view that Python runs in a folder shows, with the escapes of its styles."""
    variables = {"PYTHONPATH": str(REPO), "TERM": "screen-256color"}
    with Terminal([sys.executable, *arguments], width, height, cwd=folder, variables=variables) as terminal:
        terminal.wait_for(lambda text: "? help" in text)
        terminal.press(*keys) if keys else None
        return terminal.styled()


def svg(styled: str, title: str, width: int, height: int, theme: str) -> str:
    """A screen as a picture."""
    lines = styled.split("\n")[:height]
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True)
    # Styles go on from one line to the next.
    for line in AnsiDecoder().decode("\n".join(lines)):
        console.print(line, no_wrap=True, overflow="crop")
    return console.export_svg(
        title=title, theme=THEMES[theme], code_format=FORMAT, unique_id=f"watch-{theme}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", help="one of benchmarks/scenes.py; default: those of the documents")
    parser.add_argument("--run", type=Path, help="a run instead, such as runs/demo")
    parser.add_argument("--name", default="run", help="what the picture of a run is called")
    parser.add_argument("--size", choices=SIZES, help="default: both")
    parser.add_argument("--theme", choices=THEMES, default="dark")
    parser.add_argument("--out", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    wanted = {arguments.scene: (arguments.scene, ())} if arguments.scene else PICTURES
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.run:
        wanted = {"": (arguments.name, ())}
    for scene, (name, keys) in wanted.items():
        for size in [arguments.size] if arguments.size else SIZES:
            width, height = map(int, size.split("x"))
            light = "-light" if arguments.theme == "light" else ""
            path = arguments.out / f"watch-{name}-{size}{light}.svg"
            styled = (
                watched(arguments.run, width, height) if arguments.run else screen(scene, width, height, keys)
            )
            path.write_text(
                svg(styled, "streamrec-dist watch", width, height, arguments.theme), encoding="utf-8"
            )
            print(path)


if __name__ == "__main__":
    main()
