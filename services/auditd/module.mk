programs    += auditd
auditd.sec  := $(addprefix services/auditd/sec_,checks.c history.c parse.c pdf.c report.c)
auditd.srcs := $(addprefix services/auditd/,main.c append.c csv.c download.c fim.c fim_manifest.c \
                 index.c integrity.c messages.c op_audit.c op_secadvisor.c pack.c page.c query.c \
                 search.c select.c sys_linux.c sys_log_files.c sys_log_journal.c system_log.c trail.c \
                 verify.c) $(auditd.sec)
auditd.gen  := api_auditd
auditd.libs := -larchive -lhpdf -lsodium -lsystemd

test_audit_trail.extra := $(addprefix services/auditd/,index.c messages.c query.c search.c select.c \
                          trail.c)
test_audit_trail.libs  := -lsodium
test_fim.extra         := $(addprefix services/auditd/,fim.c fim_manifest.c)
test_fim.libs          := -lsodium
test_sec_parse.extra   := services/auditd/sec_parse.c
test_sec_checks.extra  := $(auditd.sec)
test_sec_checks.libs   := -lhpdf
test_sec_machine.extra := services/auditd/sys_linux.c services/auditd/sec_parse.c

fuzz_csv.extra      := $(addprefix services/auditd/,csv.c index.c messages.c trail.c)
fuzz_csv.libs       := -lsodium
fuzz_manifest.extra := services/auditd/fim_manifest.c
fuzz_secfacts.extra := $(filter-out %/sec_pdf.c,$(auditd.sec))
