# Fieldgate: one non-recursive build. Each component says what it is in its module.mk.
#
#   make            build everything into build/<variant>
#   make run        set up, build, start the suite on the bench profile
#   make check      set up, build, run all tests      (VARIANT=asan, tsan: under sanitizers)
#   make bench      measure, beside the bare libraries, and print ratios
#   make soak       a day speeded up to ten minutes, and what else takes long
#   make fuzz       ten minutes of each fuzzer        (FUZZ_SECONDS=600)
#   make lint       gcc and clang warnings, clang-tidy, cppcheck, pyflakes, layers, headers
#   make install    DESTDIR=, PREFIX=/usr
MAKEFLAGS += --no-builtin-rules
VARIANT ?= release
B       := build/$(VARIANT)
PREFIX  ?= /usr
CC      ?= cc
PYTHON  := /usr/bin/python3

# (the build for asan takes a third less with -O1)
CFLAGS  ?= $(if $(filter asan,$(VARIANT)),-O1,-O2) -g
variant.release :=
variant.asan    := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
variant.tsan    := -fsanitize=thread -fno-omit-frame-pointer
variant.cov     := --coverage -O0
variant.clang   :=
variant.fuzz    := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
ifeq (,$(filter $(VARIANT),release asan tsan cov clang fuzz))
$(error VARIANT is release, clang, asan, tsan, cov or fuzz)
endif
ifneq (,$(filter $(VARIANT),clang fuzz))
CC := clang
endif

warnings := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
            -Wpointer-arith -Wcast-qual -Wwrite-strings -Wvla -Wformat=2 -Wundef
all_cppflags := -D_GNU_SOURCE -D_FORTIFY_SOURCE=2 -I. -I$(B) $(CPPFLAGS)
all_cflags   := -std=c17 $(warnings) -fstack-protector-strong -fPIE -pthread $(CFLAGS) $(variant.$(VARIANT))
all_ldflags  := -pie -pthread -Wl,-z,relro,-z,now -Wl,--as-needed $(LDFLAGS) $(variant.$(VARIANT))
ifneq (,$(filter asan tsan cov fuzz,$(VARIANT)))
all_cppflags := $(filter-out -D_FORTIFY_SOURCE=2,$(all_cppflags))
endif
common_libs  := -lnng -lcjson -llmdb -lm

programs :=
tests    :=
fuzzers  :=
benches  :=
.PHONY: all check lint bench soak fuzz run install clean help deps gen check-headers check-layers \
        coverage-api programs unit
all: programs

include libcommon/module.mk gateway/module.mk $(sort $(wildcard services/*/module.mk)) \
        tests/module.mk

# ---- the contract ----
fragments := $(sort $(wildcard proto/api/*.yaml))
gen_names := $(basename $(notdir $(fragments)))
gen_srcs  := $(patsubst %,$(B)/gen/api_%.c,$(gen_names)) $(B)/gen/routes.c $(B)/gen/openapi_json.c
gen_heads := $(patsubst %,$(B)/gen/api_%.h,$(gen_names)) $(B)/gen/routes.h \
             $(B)/gen/permissions.h $(B)/gen/audit_events.h
$(B)/gen/stamp: proto/apigen.py proto/permissions.yaml proto/audit.yaml libcommon/format.h $(fragments)
	@mkdir -p $(@D)
	$(PYTHON) proto/apigen.py --out $(B)/gen $(fragments)
	@touch $@
$(gen_srcs) $(gen_heads): $(B)/gen/stamp ;
gen: $(B)/gen/stamp

# ---- objects: depend on their headers, and on compiler and flags ----
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(all_cppflags) $(all_cflags) $(all_ldflags)' | cmp -s - $@ || \
	 echo '$(CC) $(all_cppflags) $(all_cflags) $(all_ldflags)' > $@
FORCE:
$(B)/%.o: %.c $(B)/flags | $(B)/gen/stamp
	@mkdir -p $(@D)
	@echo "  CC   $<"
	@$(CC) $(all_cppflags) $(all_cflags) -MMD -MP -c -o $@ $<
$(B)/gen/%.o: $(B)/gen/stamp $(B)/flags
	@echo "  CC   $(B)/gen/$*.c"
	@$(CC) $(all_cppflags) $(all_cflags) -MMD -MP -c -o $@ $(B)/gen/$*.c

$(B)/libcommon.a: $(libcommon.srcs:%.c=$(B)/%.o)
	@echo "  AR   $@"
	@rm -f $@ && $(AR) rcs $@ $^

# program: <name>.srcs, <name>.gen (generated sources), <name>.libs
objects = $($(1).srcs:%.c=$(B)/%.o) $(patsubst %,$(B)/gen/%.o,$($(1).gen))
define program_rule
$(B)/bin/$(1): $(call objects,$(1)) $(B)/libcommon.a
	@mkdir -p $$(@D)
	@echo "  LD   $$@"
	@$$(CC) $$(all_ldflags) -o $$@ $(call objects,$(1)) $(B)/libcommon.a $$(common_libs) $($(1).libs)
endef
define test_rule
$(B)/tests/$(1): $(call objects,$(1)) $(B)/libcommon.a
	@mkdir -p $$(@D)
	@echo "  LD   $$@"
	@$$(CC) $$(all_ldflags) -o $$@ $(call objects,$(1)) $(B)/libcommon.a -lcmocka $$(common_libs) $($(1).libs)
endef
$(foreach p,$(programs) $(benches),$(eval $(call program_rule,$(p))))
$(foreach t,$(tests),$(eval $(call test_rule,$(t))))
programs: $(patsubst %,$(B)/bin/%,$(programs))
unit: $(patsubst %,$(B)/tests/%,$(tests))

-include $(shell find $(B) -name '*.d' 2>/dev/null)

clean:
	rm -rf build
help:
	@sed -n 's/^#   //p' Makefile

include tests/targets.mk
