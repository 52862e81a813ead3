programs    += auditd
auditd.srcs := $(addprefix services/auditd/,main.c append.c op_audit.c query.c trail.c)
auditd.gen  := api_auditd
auditd.libs := -lsodium

test_audit_trail.extra := services/auditd/trail.c services/auditd/query.c
test_audit_trail.libs  := -lsodium
