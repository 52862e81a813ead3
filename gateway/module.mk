programs += gateway
gateway.srcs := $(addprefix gateway/,main.c front.c http.c conns.c doors.c cors.c route.c auth.c \
                  auth_cache.c forward.c stream.c pipe.c upload.c refusals.c refusal_table.c \
                  metrics.c metrics_join.c docs.c tls.c https.c https_files.c facts.c)
gateway.gen  := routes openapi_json
gateway.dir  := $(B)/lib
gateway.shim := $(gateway.dir)/libssl.so $(gateway.dir)/libcrypto.so
# Found from the build tree and, beside the program, when installed.
gateway.libs := -lcivetweb -lssl -lcrypto -lsodium -Wl,--no-as-needed $(gateway.shim) \
                -Wl,--as-needed -Wl,-rpath,'$$$$ORIGIN/../lib:$$$$ORIGIN'

# Two libraries of a few lines that lead civetweb to OpenSSL 3:
# proto/decisions/tls-with-civetweb.md
$(gateway.dir)/lib%.so: gateway/tls_shim/%.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) -std=c17 -O2 -fPIC -Wall -Wextra -Werror -shared -Wl,-soname,$(@F) -o $@ $< \
	    -Wl,--no-as-needed -l:$(@F).3 -Wl,-z,relro,-z,now
$(B)/bin/gateway: $(gateway.shim)

# The pages of /api/docs as C arrays.
gateway.docs := html css js
$(B)/gen/gateway_docs.h: $(gateway.docs:%=gateway/docs/docs.%)
	@mkdir -p $(@D)
	@{ for kind in $(gateway.docs); do \
	    echo "static const char docs_$$kind[] = {"; \
	    od -An -v -td1 gateway/docs/docs.$$kind | sed 's/\(-*[0-9][0-9]*\)/\1,/g'; \
	    echo "};"; done; } > $@
$(B)/gateway/docs.o: $(B)/gen/gateway_docs.h
$(B)/gen/stamp: | $(B)/gen/gateway_docs.h

test_route.extra        := gateway/route.c
test_route.gen          := routes openapi_json
test_auth_cache.extra   := gateway/auth_cache.c
test_conns.extra        := gateway/conns.c gateway/doors.c
test_refusal_table.extra := gateway/refusal_table.c
test_doors.extra        := gateway/doors.c
test_https_files.extra  := gateway/https_files.c
test_https_files.libs   := -lsodium
test_metrics_join.extra := gateway/metrics_join.c
fuzz_path.extra         := gateway/route.c
fuzz_path.gen           := routes openapi_json
