libcommon.srcs := $(sort $(wildcard libcommon/*.c))

# What uses libcommon/x509.c links with OpenSSL.
test_x509.libs := -lcrypto
fuzz_x509.libs := -lcrypto

# Unit tests that let allocations fail.
fail_alloc := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
test_buf.libs  := $(fail_alloc)
test_json.libs := $(fail_alloc)
test_loop.libs := $(fail_alloc)

# Tests that stand between a module and its store, and live several lives (metrics know one).
no_metrics := -Wl,--wrap=metric_register,--wrap=metric_histogram_register
test_audit_outbox.libs := $(no_metrics) -Wl,--wrap=store_iter_next,--wrap=store_bytes
test_api_call.libs     := $(no_metrics) \
                          -Wl,--wrap=store_commit,--wrap=store_read,--wrap=store_abort,--wrap=store_abortp
test_api_pipe.libs     := $(no_metrics) -Wl,--wrap=store_commit
test_store.libs        := -Wl,--wrap=clock_mono_us
