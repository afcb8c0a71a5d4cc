# Root talks to the daemon of this machine.
if [ "$(id -u)" = 0 ] && [ -e /etc/rekindle-appliance/done ]; then
    REKINDLE_URL=https://127.0.0.1:$(bash -c '. /usr/lib/rekindle-appliance/setup; console_port')
    REKINDLE_FINGERPRINT=$(bash -c '. /usr/lib/rekindle-appliance/setup; fingerprint')
    REKINDLE_TOKEN_FILE=/var/lib/rekindle/admin-token
    export REKINDLE_URL REKINDLE_FINGERPRINT REKINDLE_TOKEN_FILE
fi
