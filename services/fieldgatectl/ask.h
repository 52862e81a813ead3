/*
 * One request whose answer the program itself wants to read.
 */
#ifndef FIELDGATE_CTL_ASK_H
#define FIELDGATE_CTL_ASK_H

struct cJSON;
struct peer;
struct request;

enum { ASK_ANSWER_MAX = 8 << 20 };

/*
 * Checks and sends 'rq', blocks for the answer. CTL_OK and its JSON, which
 * the caller frees (json_free), NULL for an empty one. A refusal, a fault on
 * the way or an answer that is no JSON or too large is told; then the exit code.
 */
int ask(const struct peer *peer, struct request *rq, struct cJSON **ret_answer);

#endif
