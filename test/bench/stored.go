package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/test/bench/probe"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

// storedPerAgent: a gateway knows of many more endpoints than are connected to it.
const storedPerAgent = 4

// stored compares a gateway that has read many Endpoints with one that has read none. No agent connects.
func (b *bench) stored(ctx context.Context) ([]table.Row, error) {
	n := storedPerAgent * b.agents
	w, err := b.system(ctx, "stored")
	if err != nil {
		return nil, err
	}
	defer w.stop()
	// The manager would write to each Endpoint: it has made the fleet's keys, and is not needed any more.
	if w.gateway, err = w.Gateway(ctx, rig.Ready); err != nil {
		return nil, err
	}
	w.stopGateway()
	w.Manager.Stop(10 * time.Second)

	empty, _, err := w.readOnly(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := createEndpoints(ctx, w.System, n); err != nil {
		return nil, err
	}
	b.say("made %d Endpoints in %.0f s", n, time.Since(began).Seconds())
	full, peak, err := w.readOnly(ctx)
	if err != nil {
		return nil, err
	}
	each := float64(full-empty) / float64(n)
	row := table.Row{
		Key: "stored", Name: fmt.Sprintf("gateway's memory per stored Endpoint, at %d", n), Value: fmt.Sprintf("%.2f KB", each/1e3),
		Goal:  table.AtMost(each/1e3, 1, " KB"),
		Notes: []string{fmt.Sprintf("the gateway has %.0f MB without, %.0f MB with them, and had %.0f MB at the peak of reading them", mb(empty), mb(full), mb(peak))},
	}
	if w.gateway, err = w.Gateway(ctx, readAll); err != nil {
		return nil, err
	}
	err = b.missed(ctx, &row, w.gateway, rig.Heap, func() error { return nil })
	return []table.Row{row}, err
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

// readAll is for rig.Gateway: everything was read. Without a manager it gets no certificate, and serves nobody.
func readAll(_ bool, text string) bool {
	return !strings.Contains(text, "not read yet")
}

// readOnly starts a gateway that reads the API server and has no agents, and ends it.
func (w *world) readOnly(ctx context.Context) (settled, peak int64, err error) {
	g, err := w.Gateway(ctx, readAll)
	if err != nil {
		return 0, 0, err
	}
	defer g.Stop(25 * time.Second)
	if settled, err = rig.Collected(ctx, g); err != nil {
		return 0, 0, err
	}
	peak, err = probe.Peak(g.PID())
	return settled, peak, err
}

// createEndpoints makes Endpoints as the manager's account, with all that manager and gateway write of one that is connected.
func createEndpoints(ctx context.Context, s *rig.System, n int) error {
	cfg, err := controlplane.ServiceAccountConfig(ctx, s.API.Admin, local.Namespace, local.ManagerAccount)
	if err != nil {
		return err
	}
	cfg.QPS = -1
	scheme := runtime.NewScheme()
	utilruntime.Must(errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)))
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	_, orders, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	const workers = 16
	var all sync.WaitGroup
	failed := make([]error, workers)
	for worker := range workers {
		all.Go(func() {
			for i := worker; i < n && failed[worker] == nil && ctx.Err() == nil; i += workers {
				failed[worker] = createEndpoint(ctx, c, orders, i)
			}
		})
	}
	all.Wait()
	return errors.Join(append(failed, ctx.Err())...)
}

func createEndpoint(ctx context.Context, c client.Client, orders ed25519.PrivateKey, i int) error {
	e := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{
		Namespace: rig.Tenant, Name: fmt.Sprintf("laptop-%06d", i),
		Labels: map[string]string{"site": "lab", "reported.rollcall.dev/os": "linux", "reported.rollcall.dev/arch": "amd64"},
	}}
	if err := c.Create(ctx, e); err != nil {
		return err
	}
	bare := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"managedFields":[{}]}}`)) // as the manager does
	if err := c.Patch(ctx, e, bare); err != nil {
		return err
	}
	status, err := statusOf(e.Name, orders, i)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	return c.Status().Patch(ctx, e, client.RawPatch(types.MergePatchType, patch))
}

// statusOf is the status of an endpoint that is connected and well.
func statusOf(name string, orders ed25519.PrivateKey, i int) (*v1alpha1.EndpointStatus, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	id := uuid.NewString()
	assignment, err := envelope.Seal(orders, envelope.Assignment, &agentv1.Assignment{
		Namespace: rig.Tenant, FleetId: "5f7a3c2e-0000-4000-8000-000000000001", IdentityId: id, IssuedAt: timestamppb.Now(), PolicyId: "5f7a3c2e-0000-4000-8000-00000000000a",
	})
	if err != nil {
		return nil, err
	}
	stored := v1alpha1.Envelope{PayloadType: assignment.GetPayloadType(), Payload: assignment.GetPayload()}
	for _, s := range assignment.GetSignatures() {
		stored.Signatures = append(stored.Signatures, v1alpha1.EnvelopeSignature{KeyID: v1alpha1.Text(s.GetKeyid()), Sig: s.GetSig()})
	}
	now, expires := metav1.Now(), metav1.NewTime(time.Now().Add(720*time.Hour))
	instance := strings.ReplaceAll(uuid.NewString(), "-", "")
	condition := func(kind string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: "Session", LastTransitionTime: now}
	}
	return &v1alpha1.EndpointStatus{
		ObservedGeneration: 1, Summary: "Online",
		Conditions: []metav1.Condition{condition(v1alpha1.EndpointOnline), condition(v1alpha1.EndpointInSync), condition(v1alpha1.EndpointHealthy)},
		Identity: &v1alpha1.EndpointIdentity{
			ID: id, PublicKeys: [][]byte{spki}, MachineID: v1alpha1.Text(strings.Repeat("ab", 32)), EnrolledTime: now, TokenName: "fleet", CertificateExpirationTime: &expires,
		},
		Policy:       &v1alpha1.AssignedPolicy{Name: "bench", Assignment: stored, OfflineAfterSeconds: 1200},
		LastSeenTime: &now,
		Connection: &v1alpha1.EndpointConnection{
			Channel: v1alpha1.ChannelWebSocket, Gateway: "gw-abcde-fghij", Epoch: 3, InstanceID: instance, SessionNumber: 2, SinceTime: &now, InstanceTime: &now,
			RemoteAddress: v1alpha1.Text(fmt.Sprintf("198.18.%d.%d", i>>8&0xff, i&0xff)),
		},
		Agent: &v1alpha1.EndpointAgent{
			Version: "8.0.0", PolicyID: "5f7a3c2e-0000-4000-8000-00000000000a", PolicyRevision: 1, Isolation: v1alpha1.Released, TrustVersion: 1, JournalID: strings.ReplaceAll(uuid.NewString(), "-", ""),
		},
		Inventory: &v1alpha1.EndpointInventory{
			Hostname: v1alpha1.Text(name), MachineID: v1alpha1.Text(strings.Repeat("ab", 32)), CPUs: 8, MemoryMiB: 16384, Model: "ThinkPad X1 Carbon Gen 12", BootTime: &now,
			Addresses: []v1alpha1.Text{v1alpha1.Text(fmt.Sprintf("198.18.%d.%d", i>>8&0xff, i&0xff))},
			OS:        &v1alpha1.EndpointOS{Name: "debian", Version: "13.1", Kernel: "6.12.41-amd64", Arch: "amd64"},
		},
	}, nil
}
