programs    += auditd
auditd.srcs := $(addprefix services/auditd/,main.c append.c csv.c download.c fim.c index.c \
                 integrity.c op_audit.c pack.c query.c select.c sys_log_files.c sys_log_journal.c \
                 system_log.c trail.c verify.c)
auditd.gen  := api_auditd
auditd.libs := -larchive -lsodium -lsystemd

test_audit_trail.extra := $(addprefix services/auditd/,index.c query.c select.c trail.c)
test_audit_trail.libs  := -lsodium

test_fim.extra := services/auditd/fim.c
test_fim.libs  := -lsodium

fuzz_csv.extra := $(addprefix services/auditd/,csv.c index.c trail.c)
fuzz_csv.libs  := -lsodium
