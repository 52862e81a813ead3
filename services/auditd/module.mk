programs    += auditd
auditd.srcs := $(addprefix services/auditd/,main.c append.c csv.c download.c index.c \
                 op_audit.c query.c select.c targz.c trail.c verify.c)
auditd.gen  := api_auditd
auditd.libs := -larchive -lsodium

test_audit_trail.extra := $(addprefix services/auditd/,index.c query.c select.c trail.c)
test_audit_trail.libs  := -lsodium

fuzz_csv.extra := $(addprefix services/auditd/,csv.c index.c trail.c)
fuzz_csv.libs  := -lsodium
