package watch

import (
	"fmt"
	"slices"

	"forebay/httpapi/admin"
)

// endpointRule speaks of webhook addresses that keep failing, one alert a host:
// a server that is gone may be the address of many accounts. What was switched off
// says so until somebody has looked.
func endpointRule(l *look) (found []condition) {
	var hosts []string
	byHost := map[string][]admin.Endpoint{}
	for _, e := range l.Endpoints { // the worst first
		if byHost[e.Host] == nil {
			hosts = append(hosts, e.Host)
		}
		byHost[e.Host] = append(byHost[e.Host], e)
	}
	slices.Sort(hosts)
	for _, host := range hosts {
		found = append(found, hostCondition(host, byHost[host]))
	}
	return found
}

// hostCondition judges a host by the worst of its addresses.
func hostCondition(host string, all []admin.Endpoint) condition {
	worst, others := all[0], ""
	if n := len(all) - 1; n > 0 {
		others = fmt.Sprintf("; %d more of the host are failing or off (`forebay status --output json`)", n)
	}
	if worst.Disabled.IsZero() {
		c := condition{name: "webhook_host_failing", subject: host, severity: admin.SeverityNotice,
			summary: fmt.Sprintf("A webhook address of account %s at %s has failed since %s and has used up %d %% of the patience with it%s.",
				worst.Account, host, worst.Since.UTC().Format("2 January 2006, 15:04 UTC"), worst.Warned, others),
			whatToDo: fmt.Sprintf("Tell the account's owner, before it is switched off and its messages fail. It is over by itself once the address takes a message; `forebay account endpoint list %s` shows how it stands.", worst.Account)}
		if worst.Warned >= 90 {
			c.severity = admin.SeverityWarning
		}
		return c
	}
	why := "it failed for days"
	if worst.Reason == "gone" {
		why = "it answered 410"
	}
	return condition{name: "webhook_host_off", subject: host, severity: admin.SeverityWarning,
		summary: fmt.Sprintf("A webhook address of account %s at %s is switched off, as %s%s. What is sent there fails at once.", worst.Account, host, why, others),
		whatToDo: fmt.Sprintf("Ask the account's owner whether it has moved. When it is well again, or nothing goes there any more: `forebay account endpoint enable %s %s`. "+
			"What failed meanwhile: `forebay message requeue --status failed --channel webhook --account %s`.", worst.Account, worst.ID, worst.Account)}
}
