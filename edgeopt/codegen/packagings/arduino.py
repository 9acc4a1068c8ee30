"""An Arduino library (format 1.5): ``library.properties``, ``src/`` and an example."""

from __future__ import annotations

from edgeopt.codegen.packagings.library import Library

#: Cores of Arduino whose boards run Cortex-M4 and up, for kernels that need it.
_CORTEX_M = (
    "stm32,mbed,mbed_edge,mbed_giga,mbed_nano,mbed_nicla,mbed_opta,mbed_portenta,nrf52,"
    "renesas_portenta,renesas_uno,samd,teensy,zephyr"
)


def tree(library: Library) -> dict[str, bytes]:
    """The files of the library; its folder is named `Library.package`."""
    properties = [
        f"name={library.package}",
        f"version={library.version}",
        f"author={library.maintainer}",
        f"maintainer={library.maintainer}",
        f"sentence={library.sentence}.",
        f"paragraph=Call {library.net}_init once and {library.net}_run for each inference.",
        "category=Data Processing",
        f"url={library.url}",
        f"architectures={'*' if library.portable else _CORTEX_M}",
        f"includes={library.net}.h",
        f"license={library.licence}",
        "dot_a_linkage=true",
        "",
    ]
    sketch = "hello" if not library.has_self_test else "self_test"
    use = (
        "In the IDE: Sketch, Include Library, Add .ZIP Library; or copy this folder to your "
        f"sketchbook's `libraries/`. The example `{sketch}` shows the calls.\n"
    )
    return {
        **library.flat(),
        **library.common(use),
        "library.properties": "\n".join(properties).encode(),
        f"examples/{sketch}/{sketch}.ino": _sketch(library).encode(),
    }


def _sketch(library: Library) -> str:
    net, macro = library.net, library.macro
    size = f"{macro}_SELF_TEST_ARENA_BYTES" if library.has_self_test else f"{macro}_ARENA_BYTES"
    call = f"{net}_self_test(&ctx)" if library.has_self_test else f"{macro}_OK"
    return f"""// Starts the network {net} and says whether it works on this board.
#include <{net}.h>

static {macro}_ALIGNED unsigned char arena[{size}];
static {net}_ctx ctx;

void setup() {{
  Serial.begin(115200);
  {net}_status status = {net}_init(&ctx, arena, sizeof arena);
  if (status == {macro}_OK) {{
    status = {call};
  }}
  Serial.println({net}_status_text(status));
}}

void loop() {{
}}
"""
