programs    += auditd
auditd.srcs := $(addprefix services/auditd/,main.c append.c index.c op_audit.c query.c select.c trail.c)
auditd.gen  := api_auditd
auditd.libs := -lsodium

test_audit_trail.extra := $(addprefix services/auditd/,index.c query.c select.c trail.c)
test_audit_trail.libs  := -lsodium
