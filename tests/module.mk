# Unit tests: tests/unit/test_<module>.c, one program each. Fuzzers:
# tests/fuzz/fuzz_<what>.c with LLVMFuzzerTestOneInput, corpus in
# tests/fuzz/corpus/fuzz_<what>/. What one needs of a service or the gateway is
# said by that component's module.mk: <name>.extra (sources), <name>.gen,
# <name>.libs.
tests += $(basename $(notdir $(sort $(wildcard tests/unit/test_*.c))))
$(foreach t,$(tests),$(eval $(t).srcs := tests/unit/$(t).c $($(t).extra)))
# Those that let allocations fail (tests/unit/fail_alloc.h) take them over.
failing := $(basename $(notdir $(shell grep -l fail_alloc.h tests/unit/test_*.c)))
$(foreach t,$(failing),$(eval $(t).libs += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc))

fuzzers += $(basename $(notdir $(sort $(wildcard tests/fuzz/fuzz_*.c))))
$(foreach f,$(fuzzers),$(eval $(f).srcs := tests/fuzz/$(f).c $($(f).extra)))

# What the bench measures against: the libraries with nothing of ours.
benches += bare_http bare_backend bare_pubsub bare_pwhash bare_modbus
bare_http.srcs    := tests/bench/bare_http.c
bare_http.libs    := -lcivetweb
bare_backend.srcs := tests/bench/bare_backend.c
bare_pubsub.srcs  := tests/bench/bare_pubsub.c
bare_pwhash.srcs  := tests/bench/bare_pwhash.c
bare_pwhash.libs  := -lsodium
bare_modbus.srcs  := tests/bench/bare_modbus.c
bare_modbus.libs  := -lmodbus
# The tag bus between processes, and a device that notes when it answered.
benches += tb_pub tb_sub bench_plant
tb_pub.srcs       := tests/bench/tb_pub.c
tb_sub.srcs       := tests/bench/tb_sub.c
bench_plant.srcs  := tests/bench/bench_plant.c
# Clients of a Modbus server, and libmodbus's own server for comparison.
benches += mb_load bare_slave
mb_load.srcs      := tests/bench/mb_load.c
bare_slave.srcs   := tests/bench/bare_slave.c
bare_slave.libs   := -lmodbus
# An audit log of a million records.
benches += audit_fill
audit_fill.srcs   := tests/bench/audit_fill.c \
                     $(addprefix services/auditd/,index.c messages.c trail.c)
audit_fill.libs   := -lsodium
# A device on a serial line that answers as soon as it may.
benches += bench_rtu
bench_rtu.srcs    := tests/bench/bench_rtu.c $(addprefix services/modbusd/,mb_rtu.c mb_pdu.c)
