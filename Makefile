# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check tools ctest clean

# The embedded supernet, searched and compiled for a Raspberry Pi 4; needs neither data nor board.
demo: $(VENV)/.installed
	$(BIN)/edgeopt compile --device rpi4 -o build/demo --force
	@echo "look at build/demo/report.html"

test: $(VENV)/.tested tools
	$(MAKE) check
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --durations=15
	$(MAKE) ctest

# What needs no test run: style, types, import directions.
check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The C runtime on its own, with the host's compiler.
ctest:
	cmake -S . -B build/runtime -DCMAKE_BUILD_TYPE=Debug
	cmake --build build/runtime
	ctest --test-dir build/runtime --output-on-failure

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install -q -e '.[test]'
	@touch $@

# Tools the tests start: compilers, emulators, a browser. Tests skip, saying so, where one is
# missing; as root on Debian this installs them.
TOOLS := cmake:cmake gcc:gcc clang:clang qemu-aarch64:qemu-user \
	aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu chromium:chromium bochs:bochs bochs:bochs-term \
	arduino-builder:arduino-builder arduino-builder:arduino-core-avr simavr:simavr cppcheck:cppcheck \
	arm-none-eabi-gcc:gcc-arm-none-eabi arm-none-eabi-gcc:libnewlib-arm-none-eabi \
	riscv64-unknown-elf-gcc:gcc-riscv64-unknown-elf \
	riscv64-unknown-elf-gcc:picolibc-riscv64-unknown-elf \
	qemu-system-arm:qemu-system-arm qemu-system-riscv32:qemu-system-misc \
	/usr/sbin/sshd:openssh-server ssh-keygen:openssh-client adb:adb
tools:
	@missing=""; for pair in $(TOOLS); do \
	  command -v $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	  else echo "tests that need these will skip; install them with: apt-get install -y$$missing"; fi; \
	fi

clean:
	rm -rf build dist
