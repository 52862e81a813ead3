# What make does besides building: set-up, tests, checks, measuring, running,
# installing. The rules of the build itself are in the Makefile.
FUZZ_SECONDS ?= 600
TESTS        ?=
JOBS         ?= 2
sub_make     := $(MAKE) --no-print-directory -j$(JOBS)

deps:
	deploy/deps.sh build test

# ---- tests ----
check: deps
	$(sub_make) programs unit fuzz-replays shims
	$(sub_make) check-headers check-layers
	$(PYTHON) tests/run.py --build $(B) --variant $(VARIANT) $(TESTS)

# Peers of tests from the npm registry, as package-lock.json pins them; where the registry is
# out of reach, their tests are skipped and say so (under CI a skipped test is a failure).
npm_peers := build/npm/node_modules/.package-lock.json
$(npm_peers): $(wildcard tests/fakes/npm/*.json)
	@mkdir -p build/npm && cp $^ build/npm
	@npm ci --prefix build/npm --ignore-scripts --no-audit --no-fund --loglevel=error \
	  --fetch-retries=2 --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000 \
	  && touch $@ || echo "tests: no peers from the npm registry, their tests are skipped"

# What tests put beside daemons: a library to preload, a provider of tags.
shims: $(B)/tests/clockshift.so $(B)/tests/heldsync.so $(B)/bin/fake_provider $(B)/bin/slave_alone $(npm_peers)
$(B)/tests/clockshift.so $(B)/tests/clockspeed.so: tests/fakes/clockcalls.h
$(B)/tests/%.so: tests/fakes/%.c
	@mkdir -p $(@D)
	$(CC) -std=c17 -D_GNU_SOURCE $(warnings) -I. -O2 -fPIC -shared -o $@ $<

# ---- soaking: what takes long, and is run before a release ----
soak: deps
	$(sub_make) programs shims bench_programs $(B)/tests/clockspeed.so
	$(PYTHON) tests/run.py --build $(B) --variant $(VARIANT) -v soak/
	KILLS=100 $(PYTHON) tests/run.py --build $(B) --variant $(VARIANT) -v suite/test_modbus_kill
	$(PYTHON) tests/bench/bench.py --build $(B) --row mb_exact --minutes 10

# ---- fuzzing: libFuzzer in a tree of its own; corpora replayed by every check ----
fuzz_replay.srcs := tests/fuzz/replay.c
define fuzz_rule
$(B)/fuzz/$(1)-replay: $(call objects,$(1)) $(call objects,fuzz_replay) $(B)/libcommon.a
	@mkdir -p $$(@D)
	$$(CC) $$(all_ldflags) -o $$@ $(call objects,$(1)) $(call objects,fuzz_replay) \
	  $(B)/libcommon.a $$(common_libs) $($(1).libs)
$(B)/fuzz/$(1): $(call objects,$(1)) $(B)/libcommon.a
	@mkdir -p $$(@D)
	$$(CC) $$(all_ldflags) -fsanitize=fuzzer -o $$@ $(call objects,$(1)) \
	  $(B)/libcommon.a $$(common_libs) $($(1).libs)
endef
$(foreach f,$(fuzzers),$(eval $(call fuzz_rule,$(f))))
fuzz-replays: $(patsubst %,$(B)/fuzz/%-replay,$(fuzzers))
fuzz-programs: $(patsubst %,$(B)/fuzz/%,$(fuzzers))
fuzz:
	deploy/deps.sh build lint
	$(sub_make) VARIANT=fuzz B=build/fuzz fuzz-programs
	tests/fuzz/run.sh build/fuzz/fuzz $(FUZZ_SECONDS) $(JOBS) $(fuzzers)

# ---- measuring ----
bench_programs: $(patsubst %,$(B)/bin/%,$(benches))
bench:
	deploy/deps.sh build bench
	$(sub_make) programs bench_programs
	$(PYTHON) tests/bench/bench.py --build $(B) $(addprefix --row ,$(ROWS))

# ---- rules of the code ----
# Each header compiles alone, under gcc and with the warnings of the build.
headers := $(sort $(wildcard libcommon/*.h proto/*.h gateway/*.h services/*/*.h))
check-headers: $(patsubst %,$(B)/headers/%.ok,$(headers))
$(B)/headers/%.ok: % $(B)/gen/stamp $(B)/flags
	@mkdir -p $(@D)
	@echo '#include "$<"' | $(CC) $(all_cppflags) $(all_cflags) -fsyntax-only -x c - && touch $@

# Who may include whom, which file may use which library, calls that are banned.
check-layers:
	$(PYTHON) tests/lint/layers.py

lint_srcs := $(sort $(libcommon.srcs) $(foreach p,$(programs) $(tests) $(fuzzers) $(benches),$($(p).srcs)))
lint:
	deploy/deps.sh build test lint
	$(sub_make) programs unit check-headers check-layers
	$(sub_make) VARIANT=clang B=build/clang programs unit
	$(sub_make) -k VARIANT=clang B=build/clang tidy cppcheck
	pyflakes3 $$(find proto tests -name '*.py' ! -path '*/node_modules/*')
tidy: $(patsubst %,$(B)/tidy/%.ok,$(filter-out tests/%,$(lint_srcs)))
# After the object, which is newer when a header that the file includes was changed.
$(B)/tidy/%.c.ok: %.c $(B)/%.o .clang-tidy
	@mkdir -p $(@D)
	@echo "  TIDY $<"
	@clang-tidy --quiet --warnings-as-errors='*' $< -- $(all_cppflags) -std=c17 2>$@.log \
	  || { cat $@.log; exit 1; }
	@touch $@
cppcheck: gen
	@echo "  CPPCHECK"
	@cppcheck --quiet --error-exitcode=1 --std=c11 --inline-suppr --library=posix \
	  --enable=warning,performance,portability --suppress=missingIncludeSystem \
	  --suppressions-list=tests/lint/cppcheck.txt -j$(JOBS) \
	  -D_GNU_SOURCE -I. -I$(B) $(filter-out tests/%,$(lint_srcs))

# ---- coverage of the API: our own table against what proto/ declares ----
coverage-api: gen
	$(PYTHON) tests/api/coverage.py tests/api/operations.tsv $(B)/gen/openapi.json

compile_commands.json: gen
	$(PYTHON) tests/lint/compile_commands.py '$(CC) $(all_cppflags) $(all_cflags)' \
	  $(lint_srcs) > $@

# ---- running: everything a newcomer needs ----
export STATE HTTPS_PORT HTTP_PORT REDIRECT_PORT MQTT_PORT PLANT_PORT
run:
	deploy/run.sh

# ---- installing ----
daemons := $(filter-out demoplant fieldgatectl,$(programs))
libexec := $(PREFIX)/lib/fieldgate
doc     := $(PREFIX)/share/doc/fieldgate
units   := $(wildcard systemd/*.service systemd/*.path systemd/*.target)
install: programs
	$(sub_make) install-files
# What is built already, as it is.
install-files:
	install -d $(addprefix $(DESTDIR),$(libexec) $(doc) $(PREFIX)/bin \
	  $(addprefix $(PREFIX)/lib/,systemd/system sysusers.d tmpfiles.d) \
	  $(addprefix $(PREFIX)/share/,bash-completion/completions man/man1))
	install -m 755 $(patsubst %,$(B)/bin/%,$(daemons)) $(DESTDIR)$(libexec)/
	install -m 755 $(B)/bin/demoplant $(DESTDIR)$(PREFIX)/bin/fieldgate-demoplant
	install -m 755 $(B)/bin/fieldgatectl $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(B)/gen/fieldgatectl.bash \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions/fieldgatectl
	install -m 644 $(B)/gen/fieldgatectl.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	for lib in $(wildcard $(B)/lib/*.so*); do \
	  install -m 755 $$lib $(DESTDIR)$(libexec)/ || exit 1; done
	for unit in $(units); do \
	  sed 's|/usr/lib/fieldgate/|$(libexec)/|g; s|/usr/share/doc/fieldgate/|$(doc)/|' $$unit \
	    > $(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit##*/} || exit 1; done
	install -m 644 systemd/fieldgate.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/fieldgate.conf
	install -m 644 systemd/fieldgate.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/fieldgate.conf
	install -m 644 README.md CHANGELOG.md LICENSE $(B)/gen/openapi.json $(DESTDIR)$(doc)/
	deploy/manifest.sh '$(DESTDIR)' $(libexec) $(doc)/openapi.json \
	  $(addprefix $(PREFIX)/,bin/fieldgatectl bin/fieldgate-demoplant \
	    share/bash-completion/completions/fieldgatectl) \
	  $(addprefix $(PREFIX)/lib/,$(units:systemd/%=systemd/system/%) sysusers.d/fieldgate.conf tmpfiles.d/fieldgate.conf) \
	  > $(DESTDIR)$(libexec)/MANIFEST
	chmod 644 $(DESTDIR)$(libexec)/MANIFEST

.PHONY: install-files shims fuzz-replays fuzz-programs bench_programs tidy cppcheck
