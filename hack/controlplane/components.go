package controlplane

import (
	"context"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// controllers of kube-controller-manager that Rollcall and its tests rely on.
// Nothing schedules Pods here, so none of the workload controllers run.
var controllers = []string{
	"certificatesigningrequest-cleaner-controller",
	"clusterrole-aggregation-controller",
	"garbage-collector-controller",
	"namespace-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"validatingadmissionpolicy-status-controller",
}

func (c *ControlPlane) startEtcd(context.Context) error {
	logPath := filepath.Join(c.cfg.LogDir, "etcd.log")
	logFile, err := openLog(logPath)
	if err != nil {
		return err
	}
	defer logFile.Close()
	c.etcd = &envtest.Etcd{
		Path:         filepath.Join(c.cfg.AssetsDir, "etcd"),
		URL:          &url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(c.ports.Etcd)},
		DataDir:      c.state("etcd"),
		StartTimeout: startTimeout, StopTimeout: stopGrace,
		Out: logFile, Err: logFile,
	}
	if err := c.etcd.Start(); err != nil {
		return startError(err, logPath)
	}
	return nil
}

// startAPIServer makes a new envtest.APIServer each time: one that was stopped
// would pass its earlier flags once more.
func (c *ControlPlane) startAPIServer(context.Context) error {
	logPath := filepath.Join(c.cfg.LogDir, "kube-apiserver.log")
	logFile, err := openLog(logPath)
	if err != nil {
		return err
	}
	defer logFile.Close()
	server := &envtest.APIServer{
		Path:         filepath.Join(c.cfg.AssetsDir, "kube-apiserver"),
		CertDir:      c.state("pki"),
		EtcdURL:      c.etcd.URL,
		StartTimeout: startTimeout, StopTimeout: stopGrace,
		Out: logFile, Err: logFile,
	}
	server.SecureServing = envtest.SecureServing{
		ListenAddr: envtest.ListenAddr{Address: "127.0.0.1", Port: strconv.Itoa(c.ports.APIServer)},
		CA:         c.ca.pem,
		Authn:      c.ca,
	}
	args := server.Configure().
		Set("service-account-issuer", issuer).
		Set("service-account-key-file", c.state("pki", saKey)).
		Set("service-account-signing-key-file", c.state("pki", saKey)).
		Disable("disable-admission-plugins").                 // envtest turns ServiceAccount off, for want of its controller
		Set("shutdown-watch-termination-grace-period", "1s"). // else an open watch holds a stop up for a minute
		Set("audit-policy-file", c.state("audit-policy.yaml")).
		Set("audit-log-path", c.AuditLog()).
		Set("audit-log-maxsize", "1024").
		Set("audit-log-maxbackup", "1")
	for name, value := range c.cfg.APIServerFlags {
		args.Set(name, value)
	}
	if err := server.Start(); err != nil {
		return startError(err, logPath)
	}
	c.apiServer = server
	return nil
}

func (c *ControlPlane) startControllerManager(context.Context) (err error) {
	logPath := filepath.Join(c.cfg.LogDir, "kube-controller-manager.log")
	enabled := c.cfg.Controllers
	if enabled == nil {
		enabled = controllers
	}
	c.controllerManager, err = startChild(filepath.Join(c.cfg.AssetsDir, "kube-controller-manager"), logPath,
		controllerManagerMark(c.cfg.StateDir),
		"--controllers="+strings.Join(enabled, ","),
		"--use-service-account-credentials",
		"--service-account-private-key-file="+c.state("pki", saKey),
		"--root-ca-file="+c.ca.file,
		"--leader-elect=false",
		"--secure-port=0")
	if err != nil {
		return startError(err, logPath)
	}
	return nil
}

// awaitControllers waits for a deed of theirs: every namespace has a service account.
func (c *ControlPlane) awaitControllers(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err = client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{}); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-c.controllerManager.done:
		case <-ticker.C:
			continue
		}
		return startError(err, filepath.Join(c.cfg.LogDir, "kube-controller-manager.log"))
	}
}
