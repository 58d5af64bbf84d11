// A receiver of webhooks in Go, with its standard library alone:
//
//	WEBHOOK_SECRET=whsec_... go run receiver.go [PORT] [FILE]
//
// It checks the signature, drops doubles by event_id, stores every event, whatever its topic, as a line of FILE, and
// answers once the line is on the disk.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const patience = 5 * time.Minute // an older request is somebody's copy

type event struct {
	ID string `json:"event_id"`
}

type receiver struct {
	secret []byte
	lock   sync.Mutex
	file   *os.File
	known  map[string]bool
}

func open(name string, secret []byte) (*receiver, error) {
	before, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	known := map[string]bool{}
	for _, line := range bytes.Split(before, []byte("\n")) {
		var found event
		if json.Unmarshal(line, &found) == nil { // else a crash cut it off: its event comes again
			known[found.ID] = true
		}
	}
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil && len(before) > 0 {
		_, err = file.WriteString("\n") // ends such a line
	}
	return &receiver{secret: secret, file: file, known: known}, err
}

func (r *receiver) isGenuine(headers http.Header, body []byte) bool {
	sentAt, err := strconv.ParseInt(headers.Get("webhook-timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(sentAt, 0)).Abs() > patience {
		return false
	}
	hash := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(hash, "%s.%d.", headers.Get("webhook-id"), sentAt)
	hash.Write(body)
	expected := "v1," + base64.StdEncoding.EncodeToString(hash.Sum(nil))
	for _, given := range strings.Fields(headers.Get("webhook-signature")) { // several while the secret is changed
		if hmac.Equal([]byte(given), []byte(expected)) {
			return true
		}
	}
	return false
}

func (r *receiver) store(events []json.RawMessage) error {
	r.lock.Lock()
	defer r.lock.Unlock()
	var ids []string
	for _, raw := range events {
		var found event
		if err := json.Unmarshal(raw, &found); err != nil {
			return err
		}
		if r.known[found.ID] {
			continue
		}
		if _, err := r.file.Write(append(raw, '\n')); err != nil {
			return err
		}
		ids = append(ids, found.ID)
	}
	if err := r.file.Sync(); err != nil {
		return err
	}
	for _, id := range ids {
		r.known[id] = true
	}
	return nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil || !r.isGenuine(request.Header, body) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var batch struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(body, &batch); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if batch.Events == nil { // one event
		batch.Events = []json.RawMessage{body}
	}
	if err := r.store(batch.Events); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func argument(n int, otherwise string) string {
	if len(os.Args) > n {
		return os.Args[n]
	}
	return otherwise
}

func main() {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_"))
	if err != nil || len(secret) < 24 { // anybody could sign with an empty one
		log.Fatal("WEBHOOK_SECRET must be whsec_ and the base64 of 24 bytes or more")
	}
	receiver, err := open(argument(2, "events.jsonl"), secret)
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/webhook", receiver)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+argument(1, "9000"), nil))
}
