#include "services/authd/policy.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "libcommon/banned.h"

const char *policy_blacklist[] = { "admin@123", "moxamoxa" };
const size_t policy_n_blacklist = ARRAY_LEN(policy_blacklist);

const char *
policy_refuses(const struct password_policy *policy, const char *name, const char *password)
{
    bool digit = false, special = false, upper = false, lower = false;
    for (const unsigned char *p = (const unsigned char *)password; *p; p++) {
        digit |= isdigit(*p) != 0;
        upper |= isupper(*p) != 0;
        lower |= islower(*p) != 0;
        special |= ispunct(*p) != 0;
    }
    if (strlen(password) < (size_t)policy->length_min)
        return "the password is shorter than the policy asks for";
    if (policy->at_least_one_digit && !digit)
        return "the password needs a digit";
    if (policy->at_least_one_special && !special)
        return "the password needs a special character";
    if (policy->mixed_upper_lower_letters && !(upper && lower))
        return "the password needs upper and lower case letters";
    for (size_t i = 0; i < policy_n_blacklist; i++)
        if (strcasecmp(password, policy_blacklist[i]) == 0)
            return "the password is on the blacklist";
    if (strcasecmp(password, name) == 0)
        return "the password must differ from the account's name";
    return NULL;
}
