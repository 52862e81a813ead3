libcommon.srcs := $(sort $(wildcard libcommon/*.c))

# Unit tests that let allocations fail.
fail_alloc := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
test_buf.libs  := $(fail_alloc)
test_json.libs := $(fail_alloc)
test_loop.libs := $(fail_alloc)
