package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
)

// action has the agent do something, and tells how it went.
func (d *demo) action(ctx context.Context, endpoint string) (string, error) {
	const name = "hello"
	manifest := fmt.Sprintf("apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: %s}\nspec: {type: PerformHeartbeat, endpointName: %s, reason: %s}\n",
		name, endpoint, "shows that make run is ready")
	kubectl := func(stdin string, args ...string) error {
		_, err := local.Kubectl(ctx, d.kubectl, d.person.Kubeconfig, stdin, args...)
		return err
	}
	if err := kubectl("", "delete", "epa", name, "--ignore-not-found"); err != nil { // that of an earlier start
		return "", err
	}
	// a cluster that knows the kind for a moment only cannot stamp its objects yet, and says so
	if err := local.Poll(ctx, 2*time.Minute, often, func() error { return kubectl(manifest, "create", "-f", "-") }); err != nil {
		return "", err
	}
	if err := kubectl("", "wait", "epa/"+name, "--for=jsonpath={.status.finishTime}", "--timeout=60s"); err != nil {
		return "", err
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
