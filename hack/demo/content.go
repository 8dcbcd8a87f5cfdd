package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
)

// firstContent is the release that the demo begins with; the next one is a person's to apply.
const firstContent = "1042"

// believe has the fleet believe the publisher of the samples, as an administrator does.
func (d *demo) believe(ctx context.Context) error {
	_, err := local.Kubectl(ctx, d.kubectl, d.adminKubeconfig(), "", "apply", "-k", d.sample("release-keys"))
	return err
}

// content releases the first content, and waits until people see that the agent runs it, or what came after it.
func (d *demo) content(ctx context.Context, endpoint string) (string, error) {
	kubectl := func(args ...string) (string, error) {
		return local.Kubectl(ctx, d.kubectl, d.person.Kubeconfig, "", args...)
	}
	if _, err := kubectl("apply", "-f", d.sample("content_"+firstContent+".yaml")); err != nil {
		return "", err
	}
	if _, err := kubectl("wait", "ctr/content-"+firstContent, "--for=condition=Ready", "--timeout=60s"); err != nil {
		return "", err
	}
	running := ""
	err := local.Poll(ctx, time.Minute, often, func() (err error) {
		if running, err = kubectl("get", "fep", endpoint, "-o", "jsonpath={.status.agent.contentVersion}"); err != nil || running != "" {
			return err
		}
		if err := d.checkin(ctx); err != nil { // the offer comes with a heartbeat, which may be some seconds away
			return err
		}
		return fmt.Errorf("endpoint %s/%s does not run content %s yet: kubectl describe fep %s; the agent's last words in %s:\n%s",
			tenant, endpoint, firstContent, endpoint, d.in("log", "agent.log"), local.Tail(d.in("log", "agent.log"), 3))
	})
	return running + ": offered, verified, applied, reported", err
}

func (d *demo) checkin(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "cytool"), "checkin", "--state-dir="+d.in("agent"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cytool checkin: %w: %s", err, out)
	}
	return nil
}

func (d *demo) sample(name string) string { return filepath.Join(d.root, "config", "samples", name) }
