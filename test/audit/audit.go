// Package audit reads an API server's audit log and tells who wrote what: the one witness that no process wrote more than it may.
package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Event is what is looked at of a line of the log (audit.k8s.io/v1 Event).
type Event struct {
	Stage            string         `json:"stage"`
	Verb             string         `json:"verb"`
	User             User           `json:"user"`
	ImpersonatedUser *User          `json:"impersonatedUser"`
	ObjectRef        *Object        `json:"objectRef"`
	ResponseStatus   ResponseStatus `json:"responseStatus"`
	RequestURI       string         `json:"requestURI"`
	UserAgent        string         `json:"userAgent"`
}

// User is who asked.
type User struct {
	Username string `json:"username"`
}

// Object is what was asked for.
type Object struct {
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	APIGroup    string `json:"apiGroup"`
}

// ResponseStatus is what came of it.
type ResponseStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// By is who the API server took the caller for: the impersonated user, if one was named.
func (e Event) By() string {
	if e.ImpersonatedUser != nil {
		return e.ImpersonatedUser.Username
	}
	return e.User.Username
}

// Wrote tells whether the request was a write that was carried out.
func (e Event) Wrote() bool {
	switch e.Verb {
	case "create", "update", "patch", "delete", "deletecollection":
		return e.Stage == "ResponseComplete" && e.ResponseStatus.Code < 300 && e.ObjectRef != nil
	default:
		return false
	}
}

// Read calls f for each event of a log that may still be written to; a last line that is cut short is left out.
func Read(path string, f func(Event)) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		f(e)
	}
}

// The accounts that the shipped RBAC speaks of.
const (
	Manager = "system:serviceaccount:rollcall-system:rollcall-manager"
	Gateway = "system:serviceaccount:rollcall-system:rollcall-gateway"
)

// Violation tells why a write should not have been, or returns "". Of our kinds, a status is the manager's and the gateway's to write;
// all else is the manager's and people's, and kube-controller-manager may delete. Dry runs change nothing and do not count.
func Violation(e Event, isPerson func(user string) bool) string {
	if !e.Wrote() || e.ObjectRef.APIGroup != "rollcall.dev" || strings.Contains(e.RequestURI, "dryRun=All") {
		return ""
	}
	by := e.By()
	if e.ObjectRef.Subresource == "status" {
		if by == Manager || by == Gateway {
			return ""
		}
		return describe(e, "a status is written by the manager and the gateway alone")
	}
	deletes := e.Verb == "delete" || e.Verb == "deletecollection"
	switch {
	case by == Manager, isPerson(by):
		return ""
	case deletes && (by == "system:kube-controller-manager" || strings.HasPrefix(by, "system:serviceaccount:kube-system:")):
		return ""
	default:
		return describe(e, "neither the manager nor a person")
	}
}

// Judge reads a whole log: who wrote how often to our kinds, and each violation. The tests' people are service accounts named person.
func Judge(path string) (writes map[string]int, violations []string, err error) {
	writes = map[string]int{}
	err = Read(path, func(e Event) {
		if e.Wrote() && e.ObjectRef.APIGroup == "rollcall.dev" {
			writes[e.By()]++
		}
		if v := Violation(e, func(user string) bool { return strings.HasSuffix(user, ":person") }); v != "" {
			violations = append(violations, v)
		}
	})
	return writes, violations, err
}

func describe(e Event, why string) string {
	o := e.ObjectRef
	return fmt.Sprintf("%s: %s %s %s/%s %s: %s", e.By(), e.Verb, o.Resource, o.Namespace, o.Name, o.Subresource, why)
}
