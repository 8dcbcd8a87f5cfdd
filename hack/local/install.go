package local

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

// Installed counts what config/cluster brought.
type Installed struct{ Kinds, Accounts, Policies int }

// Install applies config/cluster with kubectl as the administrator that kubeconfig names, and waits until its kinds are served. That is
// config/default without its Deployment: the processes run on this machine.
func Install(ctx context.Context, kubectl, kubeconfig string, admin *rest.Config, root string) (Installed, error) {
	var n Installed
	out, err := Kubectl(ctx, kubectl, kubeconfig, "", "apply", "-k", filepath.Join(root, "config", "cluster"))
	if err != nil {
		return n, fmt.Errorf("install config/cluster: %w", err)
	}
	n.Kinds = strings.Count(out, "customresourcedefinition.")
	n.Accounts = strings.Count(out, "serviceaccount/")
	n.Policies = strings.Count(out, "validatingadmissionpolicy.") + strings.Count(out, "mutatingadmissionpolicy.")
	return n, waitForKinds(ctx, admin)
}

// waitForKinds polls, because a kind is Established a moment before discovery shows it.
func waitForKinds(ctx context.Context, admin *rest.Config) error {
	client, err := discovery.NewDiscoveryClientForConfig(admin)
	if err != nil {
		return fmt.Errorf("wait for the kinds: %w", err)
	}
	want := schema.GroupVersion{Group: "rollcall.dev", Version: "v1alpha1"}
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		got, err := client.ServerResourcesForGroupVersion(want.String())
		return err == nil && len(got.APIResources) > 0, nil
	})
	if err != nil {
		return fmt.Errorf("the kinds of %s are not served: %w", want, err)
	}
	return nil
}

// Kubectl runs kubectl and returns what it printed on standard output; the error has what it printed on standard error.
func Kubectl(ctx context.Context, kubectl, kubeconfig, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", kubeconfig}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
