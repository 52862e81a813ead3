/*
 * What password changes share with sign-ins: a wrong old password counts like
 * a failed sign-in.
 */
#ifndef FIELDGATE_AUTHD_OP_AUTH_H
#define FIELDGATE_AUTHD_OP_AUTH_H

#include "services/authd/password.h"

/* API_OK, or refused: a lock, a source that fails too often, too many attempts at once. */
enum api_status sign_in_admit(struct authd *a, struct api_call *call, const char *name);

/*
 * Counts and records the failure of job->name, answers 401, frees the job.
 * 'why' goes to the audit log only.
 */
void sign_in_failed(struct password_job *job, const char *why);

void sign_in_register_metrics(void);

#endif
