package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/rollcall-dev/rollcall/hack/local"
)

// action has the agent do something, and tells how it went.
func (d *demo) action(ctx context.Context, endpoint string) (string, error) {
	const name = "hello"
	manifest := fmt.Sprintf("apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: %s}\nspec: {type: PerformHeartbeat, endpointName: %s, reason: %s}\n",
		name, endpoint, "shows that make run is ready")
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{"", []string{"delete", "epa", name, "--ignore-not-found"}}, // that of an earlier start
		{manifest, []string{"create", "-f", "-"}},
		{"", []string{"wait", "epa/" + name, "--for=jsonpath={.status.finishTime}", "--timeout=60s"}},
	} {
		if _, err := local.Kubectl(ctx, d.kubectl, d.person.Kubeconfig, step.stdin, step.args...); err != nil {
			return "", err
		}
	}
	out, err := local.Kubectl(ctx, d.kubectl, d.person.Kubeconfig, "", "get", "epa", name, "-o", "jsonpath={.status.phase},{.status.delivery.channel},{.status.message}")
	if err != nil {
		return "", err
	}
	phase, rest, _ := strings.Cut(out, ",")
	channel, message, _ := strings.Cut(rest, ",")
	if phase != "Succeeded" {
		return "", fmt.Errorf("the action %s/%s ended %s: %s", tenant, name, phase, message)
	}
	over := map[string]string{"WebSocket": "the websocket", "Heartbeat": "a heartbeat"}[channel]
	return fmt.Sprintf("%s (PerformHeartbeat): %s over %s, %s", name, phase, over, message), nil
}
