# Unit tests: tests/unit/test_<module>.c, one program each. What a test needs of
# a service is named here.
tests += $(basename $(notdir $(sort $(wildcard tests/unit/test_*.c))))
$(foreach t,$(tests),$(eval $(t).srcs := tests/unit/$(t).c $($(t).extra)))
