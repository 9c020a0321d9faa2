# Run by `nixview lock --env` in a bash inside a view: sources the setup of a derivation and says what is there then.
exec {__nixview_out}>&1 1>&2 </dev/null
set +o >&$__nixview_out; printf '\0' >&$__nixview_out
shopt -p >&$__nixview_out; printf '\0' >&$__nixview_out
trap -p >&$__nixview_out; printf '\0' >&$__nixview_out

unset PATH
dontAddDisableDepTrack=1
if [[ -n ${NIX_ATTRS_SH_FILE-} && -e $NIX_ATTRS_SH_FILE ]]; then source "$NIX_ATTRS_SH_FILE"; fi
if [[ -e ${stdenv-}/setup ]]; then source "$stdenv/setup"; fi

set +o >&$__nixview_out; builtin printf '\0' >&$__nixview_out
set +euxfnv
shopt -p >&$__nixview_out; builtin printf '\0' >&$__nixview_out
shopt -u nocasematch nullglob failglob extdebug
trap -p >&$__nixview_out; builtin printf '\0' >&$__nixview_out
trap - EXIT ERR DEBUG RETURN
alias -p >&$__nixview_out; builtin printf '\0' >&$__nixview_out

while IFS=' ' read -r __nixview_word __nixview_flags __nixview_name; do
    [[ -n $__nixview_name ]] || continue
    builtin printf 'function\0%s\0%s\0' "$__nixview_name" "$__nixview_flags" >&$__nixview_out
    declare -f -- "$__nixview_name" >&$__nixview_out
    builtin printf '\0' >&$__nixview_out
done <<<"$(declare -F)"

__nixview_names=()
for __nixview_name in _ a b c d e f g h i j k l m n o p q r s t u v w x y z \
    A B C D E F G H I J K L M N O P Q R S T U V W X Y Z; do
    eval "__nixview_names+=(\"\${!$__nixview_name@}\")"
done
for __nixview_name in "${__nixview_names[@]}"; do
    [[ $__nixview_name == __nixview_* ]] && continue
    __nixview_flags=$(declare -p "$__nixview_name" 2>/dev/null) || continue
    __nixview_flags=${__nixview_flags#declare -}
    __nixview_flags=${__nixview_flags%%[!a-zA-Z]*}
    builtin printf 'variable\0%s\0%s\0' "$__nixview_name" "$__nixview_flags" >&$__nixview_out
    if [[ $__nixview_flags == *[aA]* ]]; then
        eval "builtin printf '%s\\0' \"\${#$__nixview_name[@]}\" >&\$__nixview_out
            for __nixview_word in \"\${!$__nixview_name[@]}\"; do
                builtin printf '%s\\0%s\\0' \"\$__nixview_word\" \"\${$__nixview_name[\$__nixview_word]}\" >&\$__nixview_out
            done"
    elif [[ $__nixview_flags == *n* ]]; then
        eval "builtin printf '0\\0%s\\0' \"\${!$__nixview_name}\" >&\$__nixview_out"
    else
        eval "builtin printf '0\\0%s\\0' \"\${$__nixview_name}\" >&\$__nixview_out"
    fi
done
builtin printf 'end\0' >&$__nixview_out
