programs   += authd
authd.srcs := $(addprefix services/authd/,main.c cert.c cert_expiry.c cert_publish.c check.c \
              facts.c flood.c integrity.c jwt.c link.c lock.c op_auth.c op_lock.c op_password.c \
              op_role.c op_secrets.c op_service.c op_session.c op_token.c op_user.c password.c \
              permission.c policy.c record.c refusals.c session.c token.c vault.c)
authd.gen  := api_authd
authd.libs := -lsodium -lcrypto

test_cert.extra            := services/authd/cert.c services/authd/permission.c services/authd/record.c \
                              services/authd/vault.c
test_cert.libs             := -lsodium -lcrypto
test_jwt.extra             := services/authd/jwt.c
test_jwt.libs              := -lsodium
test_password_policy.extra := services/authd/policy.c
test_sign_in_lock.extra    := services/authd/lock.c services/authd/permission.c services/authd/record.c
test_session.extra         := services/authd/permission.c services/authd/record.c services/authd/session.c
test_session.libs          := -lsodium
test_authd_record.extra    := services/authd/permission.c services/authd/record.c
fuzz_token.extra           := services/authd/jwt.c
fuzz_token.libs            := -lsodium
fuzz_api_body.extra        += $(filter-out %/main.c,$(authd.srcs))
fuzz_api_body.gen          += api_authd
fuzz_api_body.libs         += -lsodium -lcrypto
