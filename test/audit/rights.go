package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// RightsEnv names a directory in which every control plane of a test run leaves what the shipped programs have asked of it.
const RightsEnv = "ROLLCALL_TEST_RIGHTS"

// programs are the accounts by the user agents of the shipped programs: what tests try with their tokens does not count. A test that runs a part
// of a program within itself gives it the program's.
var programs = map[string]string{"rollcall-manager": Manager, "rollcall-gateway": Gateway}

// unasked are rights that no request shows, with the reason.
var unasked = map[string]string{
	"admit endpoints.rollcall.dev":                             "a policy asks the authorizer for it",
	"admit endpointactions.rollcall.dev":                       "likewise",
	"delegate endpoints.rollcall.dev":                          "likewise",
	"delegate endpointactions.rollcall.dev":                    "likewise",
	"approve signers.certificates.k8s.io rollcall.dev/agent":   "the API server asks the authorizer for it",
	"approve signers.certificates.k8s.io rollcall.dev/gateway": "likewise",
	"sign signers.certificates.k8s.io rollcall.dev/agent":      "likewise",
	"sign signers.certificates.k8s.io rollcall.dev/gateway":    "likewise",
	"update endpoints/finalizers.rollcall.dev":                 "OpenShift asks for it of whoever makes an owner",
	"update endpointactions/finalizers.rollcall.dev":           "likewise",
}

// grants are the manifests with the roles of an account.
var grants = []struct{ file, account string }{{"manager.yaml", Manager}, {"gateway-token.yaml", Manager}, {"gateway.yaml", Gateway}}

// Keep leaves in a directory, if one is named, what the programs have asked of the API server with this log.
func Keep(log, dir string) error {
	if dir == "" {
		return nil
	}
	asked := map[string]bool{}
	err := Read(log, func(e Event) {
		program, _, _ := strings.Cut(e.UserAgent, "/") // leader election has an agent of its own behind it
		if account, ours := programs[program]; ours && account == e.By() && e.ObjectRef != nil {
			word := "used"
			if e.ResponseStatus.Code == http.StatusForbidden && strings.Contains(e.ResponseStatus.Message, "cannot") { // by RBAC, and not by a policy
				word = "missing"
			}
			asked[word+" "+account+" "+e.right("")] = true
			asked[word+" "+account+" "+e.right(e.ObjectRef.Name)] = true
		}
	})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "rights-")
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strings.Join(slices.Sorted(maps.Keys(asked)), "\n") + "\n")
	return err
}

func (e Event) right(name string) string {
	return right(e.Verb, e.ObjectRef.APIGroup, strings.TrimSuffix(e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/"), name)
}

func right(verb, group, resource, name string) string {
	return strings.TrimSpace(verb + " " + strings.TrimSuffix(resource+"."+group, ".") + " " + name)
}

// Rights compares what the programs have used, by what Keep has left in dir, with what the manifests in rbac grant their accounts. What is unused
// begins with its manifest's name.
func Rights(dir, rbac string) (granted int, unused, missing []string, err error) {
	used := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(dir, "rights-*"))
	if err != nil {
		return 0, nil, nil, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, nil, nil, err
		}
		for line := range strings.Lines(string(b)) {
			used[strings.TrimSpace(line)] = true
		}
	}
	for _, of := range grants {
		rules, err := rulesOf(filepath.Join(rbac, of.file))
		if err != nil {
			return 0, nil, nil, err
		}
		for _, r := range rules {
			granted++
			if !asked(used, of.account+" "+r) && unasked[r] == "" {
				unused = append(unused, of.file+": "+r)
			}
		}
	}
	for line := range used {
		// what was refused once and given later was asked for before the authorizer had read the roles of a new cluster
		if what, ok := strings.CutPrefix(line, "missing "); ok && !asked(used, what) {
			missing = append(missing, what)
		}
	}
	slices.Sort(missing)
	return granted, unused, missing, nil
}

// asked tells whether a right was used. Whoever watches may have to list, where the API server does not stream what is there.
func asked(used map[string]bool, right string) bool {
	return used["used "+right] || strings.Contains(right, " list ") && used["used "+strings.Replace(right, " list ", " watch ", 1)]
}

// rulesOf are the single rights that the roles in a file grant.
func rulesOf(file string) (all []string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		role := rbacv1.Role{} // a ClusterRole has its rules in the same place
		if err == nil {
			err = yaml.Unmarshal(doc, &role)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, r := range role.Rules {
			names := r.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, verb := range r.Verbs {
				for _, resource := range r.Resources {
					for _, name := range names {
						all = append(all, right(verb, r.APIGroups[0], resource, name))
					}
				}
			}
		}
	}
}
