/*
 * What a scan found, counted and as JSON.
 */
#include "libcommon/base.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/auditd/secadvisor.h"

#include "libcommon/banned.h"

#define X(id, name) name,
const char *const sec_source_names[SEC_N_SOURCES] = { SEC_SOURCE_TABLE(X) };
#undef X
#define X(id, key, title) key,
const char *const sec_group_keys[SEC_N_GROUPS] = { SEC_GROUP_TABLE(X) };
#undef X
#define X(id, key, title) title,
const char *const sec_group_titles[SEC_N_GROUPS] = { SEC_GROUP_TABLE(X) };
#undef X
const char *const sec_risk_names[SEC_N_RISKS] = { "low", "medium", "high" };
const char *const sec_status_names[SEC_N_STATUSES] = { "unknown", "pass", "fail" };

/* For people; they are of other daemons, whose tables are not here. */
static const struct {
    const char *operation, *route;
} routes[] = {
    { "deleteCertificate", "DELETE /secrets/certificates/{uuid}" },
    { "deleteUser", "DELETE /users/{id}" },
    { "getAudits", "GET /audits" },
    { "getAuditsVerify", "GET /audits/verify" },
    { "postKey", "POST /secrets/keys" },
    { "putAuditsConfiguration", "PUT /audits/configuration" },
    { "putAuthLock", "PUT /auth-lock" },
    { "putAzureIotedgeService", "PUT /azure-iotedge/services/{name}" },
    { "putMqttClient", "PUT /mqtt/{id}" },
    { "putPasswordPolicy", "PUT /password-policy" },
    { "putRemoteDev", "PUT /modbusmaster/config/remote-devs/{remoteDevId}" },
    { "putSessionsConfiguration", "PUT /sessions/configuration" },
    { "putSystemFim", "PUT /system/fim" },
    { "putSystemHttpserver", "PUT /system/httpserver" },
    { "putSystemLog", "PUT /system/log" },
    { "putUser", "PUT /users/{id}" },
    { "putUsersMePassword", "PUT /users/me/password" },
};

const char *
sec_route(const char *operation)
{
    for (size_t i = 0; i < ARRAY_LEN(routes); i++)
        if (str_eq(routes[i].operation, operation))
            return routes[i].route;
    return "";
}

void
sec_summarize(const struct sec_report *report, struct sec_summary *ret_summary)
{
    struct sec_summary s = { 0 };
    unsigned all = 0, passed = 0;
    for (size_t i = 0; i < report->n; i++) {
        const struct sec_finding *f = &report->findings[i];
        unsigned weight = (unsigned)f->check->risk + 1;
        all += weight;
        s.n[f->status]++;
        if (f->status == SEC_PASS)
            passed += weight;
        if (f->status == SEC_FAIL)
            s.failed[f->check->risk]++;
    }
    s.score = all ? passed * 100 / all : 0;
    *ret_summary = s;
}

static void
put_finding(struct buf *b, const struct sec_report *report, const struct sec_finding *f)
{
    jw_open(b, '{');
    jw_kstr(b, "id", f->check->id);
    jw_kstr(b, "message", f->check->message);
    jw_kstr(b, "risk", sec_risk_names[f->check->risk]);
    jw_kstr(b, "status", sec_status_names[f->status]);
    jw_ki64(b, "timestamp", report->at_s);
    jw_ki64(b, "since", f->since_s);
    jw_kstr(b, "evidence", f->evidence);
    jw_kstr(b, "remedy", f->check->remedy);
    jw_kstr(b, "operation", f->check->operation);
    jw_close(b, '}');
}

static void
put_summary(struct buf *b, const struct sec_report *report)
{
    struct sec_summary s;
    sec_summarize(report, &s);
    jw_name(b, "summary");
    jw_open(b, '{');
    jw_ku64(b, "score", s.score);
    jw_ku64(b, "passed", s.n[SEC_PASS]);
    jw_ku64(b, "failed", s.n[SEC_FAIL]);
    jw_ku64(b, "unknown", s.n[SEC_UNKNOWN]);
    jw_ku64(b, "failedHigh", s.failed[SEC_HIGH]);
    jw_ku64(b, "failedMedium", s.failed[SEC_MEDIUM]);
    jw_ku64(b, "failedLow", s.failed[SEC_LOW]);
    jw_close(b, '}');
}

void
sec_report_json(const struct sec_report *report, struct buf *b)
{
    jw_open(b, '{');
    jw_name(b, "data");
    jw_open(b, '{');
    for (int g = 0; g < SEC_N_GROUPS; g++) {
        jw_name(b, sec_group_keys[g]);
        jw_open(b, '[');
        for (size_t i = 0; i < report->n; i++)
            if ((int)report->findings[i].check->group == g)
                put_finding(b, report, &report->findings[i]);
        jw_close(b, ']');
    }
    jw_close(b, '}');
    put_summary(b, report);
    jw_close(b, '}');
}
