// Package controllers_test runs the manager's program against a real API server, under its own service account, and kills it at every step.
package controllers_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/protobuf/proto"
	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/test/harness"
)

const patience = 30 * time.Second

// timers of the manager in these tests: everything that a test waits for is seconds away.
var timers = []string{
	"--beacon-interval=1s", "--csr-retention=1s", "--count-interval=1s", "--gateway-lease-duration=2s", "--gateway-grace=4s",
	"--leader-lease-duration=1500ms", "--leader-renew-deadline=1s", "--leader-retry-period=100ms", "--log-level=debug", "--log-format=console",
}

// world is one API server of our own: these tests run the fleet's only manager.
var world struct {
	sync.Once
	api  *harness.API
	bin  string
	dir  string
	err  error
	addr string
}

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	code := m.Run()
	if world.api != nil {
		code += report(world.api.Stop())
	}
	if world.dir != "" {
		code += report(os.RemoveAll(world.dir))
	}
	os.Exit(code)
}

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func setup(t *testing.T) {
	t.Helper()
	world.Do(func() { world.err = start() })
	if world.err != nil {
		t.Fatal(world.err)
	}
}

func start() (err error) {
	if world.dir, err = os.MkdirTemp("", "rollcall-controllers-"); err != nil {
		return err
	}
	world.bin = filepath.Join(world.dir, "bin")
	build := exec.Command("go", "build", "-race", "-tags", "faults", "-o", filepath.Join(world.bin, "rollcall-manager"), "./cmd/manager")
	build.Dir = harness.Root()
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the manager: %w\n%s", err, out)
	}
	world.addr = "gateway.test:8443"
	world.api, err = harness.Start(context.Background(), filepath.Join(world.dir, "cluster"))
	return err
}

// secrets are private keys, enrolment tokens with their seed, and API tokens.
var secrets = regexp.MustCompile(`PRIVATE KEY|ret1\.[0-9a-f-]{36}\.[A-Za-z0-9_-]{40}|eyJ[A-Za-z0-9_-]{40}`)

// startManager runs the manager until the test ends. It is up when it has published a beacon.
func startManager(t *testing.T, args ...string) *local.Process {
	t.Helper()
	setup(t)
	p, err := system(t, args...).StartManager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
	return p
}

// launchManager is startManager for one that may end before it is up.
func launchManager(t *testing.T, args ...string) *local.Process {
	t.Helper()
	setup(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := system(t, args...).StartManager(ctx)
	if p == nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
	return p
}

func system(t *testing.T, args ...string) local.System {
	dir := t.TempDir()
	return local.System{
		Admin: world.api.Admin, Bin: world.bin, Dir: dir, LogDir: dir, GatewayAddress: world.addr,
		ManagerArgs: append(append([]string{}, timers...), args...),
	}
}

func stop(t *testing.T, p *local.Process) {
	t.Helper()
	began := time.Now()
	p.Stop(10 * time.Second)
	if took := time.Since(began); took > 2500*time.Millisecond {
		t.Errorf("the manager took %s to end; the gateway beside it needs that time", took)
	}
	if t.Failed() {
		t.Logf("the manager's log:\n%s", local.Tail(p.Log, 60))
	}
	b, err := os.ReadFile(p.Log)
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(string(b), "DATA RACE") {
		t.Errorf("a data race:\n%s", b)
	}
	if leak := secrets.Find(b); leak != nil {
		t.Errorf("the log has a secret: %s", leak)
	}
}

func as(t *testing.T, account string) client.Client {
	t.Helper()
	setup(t)
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	cfg := rest.CopyConfig(world.api.Admin)
	if account != "" {
		var err error
		if cfg, err = controlplane.ServiceAccountConfig(t.Context(), world.api.Admin, local.Namespace, account); err != nil {
			t.Fatal(err)
		}
	}
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func admin(t *testing.T) client.Client { return as(t, "") }

// machine is an agent's side of enrolment.
type machine struct {
	token     identity.Token
	fleet     string
	hostname  string
	machineID string
	key       *ecdsa.PrivateKey
}

// newToken declares a token and waits until it is handed out.
func newToken(t *testing.T, c client.Client, namespace, name string, spec v1alpha1.EnrollmentTokenSpec) (*v1alpha1.EnrollmentToken, identity.Token) {
	t.Helper()
	token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}
	if err := c.Create(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	return token, handedOut(t, c, token)
}

func handedOut(t *testing.T, c client.Client, token *v1alpha1.EnrollmentToken) (parsed identity.Token) {
	t.Helper()
	eventually(t, func() error {
		secret := &corev1.Secret{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: token.Namespace, Name: token.Name + "-token"}, secret); err != nil {
			return err
		}
		var err error
		parsed, err = identity.ParseToken(string(secret.Data["token"]))
		if err == nil && parsed.UID != string(token.UID) {
			err = errors.New("the Secret has another token")
		}
		return err
	})
	return parsed
}

func fleetID(t *testing.T, c client.Client) string {
	t.Helper()
	cm := &corev1.ConfigMap{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: local.Namespace, Name: "rollcall-trust"}, cm); err != nil {
		t.Fatal(err)
	}
	return cm.Data["fleet-id"]
}

func newMachine(t *testing.T, token identity.Token, fleet, hostname string) *machine {
	t.Helper()
	return &machine{token: token, fleet: fleet, hostname: hostname, machineID: identity.HashMachineID(hostname), key: newKey(t)}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csrDER(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func spkiOf(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// enrollment is what the machine signs.
func (m *machine) enrollment(t *testing.T) *agentv1.Envelope {
	t.Helper()
	return seal(t, m.token.Key(), envelope.Enrollment, &agentv1.Enrollment{
		FleetId: m.fleet, TokenUid: m.token.UID, Csr: csrDER(t, m.key), Hostname: m.hostname, MachineId: m.machineID, AgentVersion: "8.0.0",
	})
}

// renewal asks with the key of cert for a certificate of next.
func (m *machine) renewal(t *testing.T, key crypto.Signer, cert *x509.Certificate, next crypto.Signer) *agentv1.Envelope {
	t.Helper()
	_, id, err := identity.ParseURI(cert)
	if err != nil {
		t.Fatal(err)
	}
	return seal(t, key, envelope.Renewal, &agentv1.Renewal{FleetId: m.fleet, IdentityId: id, Certificate: cert.Raw, Csr: csrDER(t, next)})
}

func seal(t *testing.T, key crypto.Signer, typ envelope.Type, m proto.Message) *agentv1.Envelope {
	t.Helper()
	e, err := envelope.Seal(key, typ, m)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// request is the CertificateSigningRequest that a gateway makes of a proof.
func request(t *testing.T, key crypto.PublicKey, proof *agentv1.Envelope) *certv1.CertificateSigningRequest {
	t.Helper()
	text, err := envelope.MarshalJSON(proof)
	if err != nil {
		t.Fatal(err)
	}
	var der []byte
	switch envelope.Type(proof.GetPayloadType()) {
	case envelope.Enrollment:
		p := &agentv1.Enrollment{}
		err = envelope.Parse(proof.GetPayload(), p)
		der = p.GetCsr()
	default:
		p := &agentv1.Renewal{}
		err = envelope.Parse(proof.GetPayload(), p)
		der = p.GetCsr()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &certv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{
			Name: identity.AgentSlot(spkiOf(t, key)), Annotations: map[string]string{"rollcall.dev/proof": string(text)},
		},
		Spec: certv1.CertificateSigningRequestSpec{
			SignerName: csr.AgentSigner, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			Usages: []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageClientAuth},
		},
	}
}

// ask puts a request to the manager and waits for the answer: a certificate, or the denial.
func ask(t *testing.T, gateway client.Client, r *certv1.CertificateSigningRequest) (*x509.Certificate, *certv1.CertificateSigningRequestCondition) {
	t.Helper()
	post(t, gateway, r)
	return answer(t, gateway, r)
}

func post(t *testing.T, gateway client.Client, r *certv1.CertificateSigningRequest) {
	t.Helper()
	eventually(t, func() error {
		err := gateway.Create(t.Context(), r.DeepCopy())
		if apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("the slot %s is occupied", r.Name)
		}
		return err
	})
}

func answer(t *testing.T, gateway client.Client, r *certv1.CertificateSigningRequest) (cert *x509.Certificate, denial *certv1.CertificateSigningRequestCondition) {
	t.Helper()
	eventually(t, func() error {
		got := &certv1.CertificateSigningRequest{}
		if err := gateway.Get(t.Context(), client.ObjectKeyFromObject(r), got); err != nil {
			return err
		}
		for i := range got.Status.Conditions {
			if c := got.Status.Conditions[i]; c.Type != certv1.CertificateApproved {
				denial = &c
				return nil
			}
		}
		block, _ := pem.Decode(got.Status.Certificate)
		if block == nil {
			return errors.New("not answered yet")
		}
		var err error
		cert, err = x509.ParseCertificate(block.Bytes)
		return err
	})
	return cert, denial
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	harness.Eventually(t, patience, check)
}
